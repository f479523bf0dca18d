"""The probe `flows`: its live tool, its measurements, and how they are judged."""
