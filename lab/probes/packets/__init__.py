"""The probe `packets`: its live tool, its measurements and its judge."""
