"""The probe `states`: its live tool, its measurements, and how they are judged."""
