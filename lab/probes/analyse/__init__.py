"""The probe `analyse`: its live tool, its measurements and its judge."""
