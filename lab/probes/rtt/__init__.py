"""The probe `rtt`: its live tool, its measurements, and how they are judged."""
