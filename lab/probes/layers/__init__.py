"""The probe `layers`: its live tool, its measurements, and how they are judged."""
