"""The probe `retransmits`: TCP segments that the kernel sends again."""
