"""The probe `states`: its live tool, measurements and judge."""
