"""Capabilities of this machine: each is tried, and a refusal is reported with the kernel's error."""
