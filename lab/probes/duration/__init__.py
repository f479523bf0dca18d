"""The probe `duration`: its live tool, its measurements, and how they are judged."""
