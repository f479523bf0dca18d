"""The probe `layers`: its live tool, its measurements and its judge."""
