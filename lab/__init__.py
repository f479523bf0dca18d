"""A lab for TCP probes: it builds a network, causes known delays, attaches the probes and judges their numbers."""

import os

# NumPy's linear algebra, which the lab does not use, starts a thread for each processor otherwise: 60 ms of its import.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
