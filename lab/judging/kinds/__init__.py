"""Kinds of quantities: the fields of their rows, and how rows are compared with what happened. One module per subject.

A module lists its kinds in `KINDS`; there is no other list to edit.
"""

import importlib
import pkgutil
from collections.abc import Mapping

from lab.judging.kind import Kind


def _every() -> dict[str, Kind]:
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return {name: kind for module in modules for name, kind in module.KINDS.items()}


KINDS: Mapping[str, Kind] = _every()
"""All kinds by name."""
