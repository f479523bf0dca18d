"""The probe `drops`: TCP packets that the kernel frees and does not use."""
