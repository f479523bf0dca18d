"""Paths of the checkout, the BPF sources and the cache."""

import os
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent
SOURCES = CHECKOUT / "bpf"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "tcp-truth-lab")
