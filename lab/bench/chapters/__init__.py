"""The chapters of the bench: one module per figure, whose `measure` yields rows as they are found.

There is no list to edit: every module of this package is a chapter. Its docstring explains its quantities.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Protocol, cast

from lab.bench.context import Bench
from lab.results.measurement import Measurement


class Chapter(Protocol):
    """Interface of a chapter's module."""

    __doc__: str

    def measure(self, bench: Bench) -> Iterator[Measurement]:
        """Yield every row of the chapter."""


def names() -> list[str]:
    """Return the names of the chapters on the command line."""
    return sorted(info.name.replace("_", "-") for info in pkgutil.iter_modules(__path__))


def chapter(name: str) -> Chapter:
    """Import one chapter."""
    return cast("Chapter", importlib.import_module(f"{__name__}.{name.replace('-', '_')}"))
