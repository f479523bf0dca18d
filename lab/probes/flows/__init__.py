"""The probe `flows`: its live tool, its measurements and its judge."""
