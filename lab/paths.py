"""Paths of the BPF sources, the compiled C programs, the results and the cache.

A checkout has the sources and the programs beside the package: `bpf/`, and the programs where `make` puts them. An
installed wheel has them inside the package (`setup.py`).
"""

import os
import sys
from pathlib import Path

_PACKAGE = Path(__file__).parent
ROOT = _PACKAGE.parent
"""The folder that holds the package: the checkout, or `site-packages` for an installed lab."""
CHECKOUT = None if (_PACKAGE / "bpf").is_dir() else ROOT
"""The checkout; None for an installed lab."""
SOURCES = (CHECKOUT or _PACKAGE) / "bpf"
DOCS = (CHECKOUT or _PACKAGE) / "docs"
PROGRAMS = Path(sys.prefix, "bin") if CHECKOUT else _PACKAGE / "bin"
"""The folder of the C programs `lab-relay`, `lab-tap` and `lab-load`."""
LAB = (sys.executable, "-P", "-m", "lab")
"""The command that starts another process of the lab. -P: the current folder, which may belong to another user, holds no modules."""
RESULTS = "LAB_RESULTS"
"""The environment variable that names the folder of all runs."""
# Path.home() raises an error for a user without a home, which would end every pytest run of an environment with the plugin.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path(os.path.expanduser("~"), ".cache"), "tcp-truth-lab")  # noqa: PTH111


def results() -> Path:
    """Return the folder of all runs: `LAB_RESULTS` if it is set, otherwise `results/` of the checkout.

    An installed lab has no checkout and uses `results/` in the current folder.
    """
    return Path(os.environ.get(RESULTS) or (CHECKOUT or Path.cwd()) / "results").absolute()
