"""The probe `packets`: its live tool, its measurements, and how they are judged."""
