"""Paths of the checkout, the BPF sources and the cache."""

import os
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent
SOURCES = CHECKOUT / "bpf"
LAB = (sys.executable, "-P", "-m", "lab")
"""The command that starts another process of the lab. -P: the current folder, which may belong to another user, holds no modules."""
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "tcp-truth-lab")
