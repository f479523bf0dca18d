"""What the lab's own parts can do on this machine: measured, shown, never asserted."""
