"""The chapters of the bench: one module each, named after its figure; `measure` yields its rows as they are found.

There is no list to edit: the files are the list. A chapter's docstring says what its figures mean.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Protocol, cast

from lab.bench.context import Bench
from lab.results.measurement import Measurement


class Chapter(Protocol):
    """What the bench asks of a chapter's module."""

    __doc__: str

    def measure(self, bench: Bench) -> Iterator[Measurement]:
        """Yield every row of the chapter."""


def names() -> list[str]:
    """Return the chapters' names, as a user types them."""
    return sorted(info.name.replace("_", "-") for info in pkgutil.iter_modules(__path__))


def chapter(name: str) -> Chapter:
    """Import one chapter."""
    return cast("Chapter", importlib.import_module(f"{__name__}.{name.replace('-', '_')}"))
