"""A lab for TCP probes: it builds a network, causes known delays, attaches the probes and judges their numbers."""
