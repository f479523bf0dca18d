"""The cases: one module per subject. A module lists its cases in `CASES`; there is no other list to edit."""

import importlib
import pkgutil
from functools import cache

from lab.judging.case import Case


@cache
def every() -> tuple[Case, ...]:
    """Return all cases, sorted by name."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    found = [case for name in names for case in importlib.import_module(f"{__name__}.{name}").CASES]
    return tuple(sorted(found, key=lambda case: case.name))
