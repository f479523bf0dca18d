"""Benchmarks of the lab and its peers on this machine. Figures are measured and shown, never asserted."""
