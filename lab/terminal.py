"""The terminal that standard output goes to, if it goes to one."""

import shutil
import sys


def columns() -> int | None:
    """Return how wide it is, None where there is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
