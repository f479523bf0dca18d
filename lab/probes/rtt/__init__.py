"""The probe `rtt`: its live tool, measurements and judge."""
