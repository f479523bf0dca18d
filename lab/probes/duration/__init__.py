"""The probe `duration`: its live tool, measurements and judge."""
