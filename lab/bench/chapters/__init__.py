"""The chapters of the bench: one module each, named after its figure; `measure` yields its rows as they are found.

There is no list to edit: the files are the list. A chapter's docstring says what its figures mean.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol, cast

from lab.bench import tools
from lab.bench.tools import Tool
from lab.results.measurement import Measurement


@dataclass(frozen=True)
class Bench:
    """How thoroughly to measure, and whom to tell what is going on."""

    quick: bool
    step: Callable[[str], None]

    def times(self, thoroughly: int, quickly: int) -> int:
        """Return a number of repetitions, connections or the like."""
        return quickly if self.quick else thoroughly


class Chapter(Protocol):
    """What the bench asks of a chapter's module."""

    __doc__: str

    def measure(self, bench: Bench) -> Iterator[Measurement]:
        """Yield every row of the chapter."""


def explained(row: Measurement, why: str) -> Measurement:
    """Say of a row that misses its goal by how much it does, and why."""
    if row.met is not False or row.goal is None:
        return row
    by = f"{row.median / row.goal.value:.2f} times the goal" if row.goal.value else f"{row.median:.2g} and not 0"
    return replace(row, note=f"{by}: {why}")


def names() -> list[str]:
    """Return the chapters' names, as a user types them."""
    return sorted(info.name.replace("_", "-") for info in pkgutil.iter_modules(__path__))


def chapter(name: str) -> Chapter:
    """Import one chapter."""
    return cast("Chapter", importlib.import_module(f"{__name__}.{name.replace('-', '_')}"))


def able(*kinds: str) -> list[Tool]:
    """Tools of these kinds that can run here."""
    return [tool for tool in tools.of(*kinds) if not tools.refusal(tool)]


def seeing_frames(*kinds: str) -> list[Tool]:
    """Those of them that see whole frames: who counts what applications send and read is not asked for packets."""
    return [tool for tool in able(*kinds) if tool.at == tools.FRAMES]


def refused(figure: str, quantity: str, unit: str, *kinds: str) -> Iterator[Measurement]:
    """Yield a row for each tool of these kinds that cannot run here, with its own reason."""
    for tool in tools.of(*kinds):
        if why := tools.refusal(tool):
            yield Measurement(figure, tool.name, quantity, unit, refused=why)
