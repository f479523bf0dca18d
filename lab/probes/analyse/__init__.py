"""The probe `analyse`: its live tool, its measurements, and how they are judged."""
