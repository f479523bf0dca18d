"""Context of the bench's chapters: how thoroughly to measure, and which tools can run here."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from lab.bench import tools
from lab.judging.description import FRAMES, Description
from lab.judging.running import refusal
from lab.results.measurement import Measurement


@dataclass(frozen=True)
class Bench:
    """How thoroughly to measure. `step` reports progress."""

    quick: bool
    step: Callable[[str], None]

    def times(self, thoroughly: int, quickly: int) -> int:
        """Return `quickly` in a quick run, else `thoroughly`: a number of repetitions or connections."""
        return quickly if self.quick else thoroughly


def explained(row: Measurement, why: str) -> Measurement:
    """Return the row. If it misses its goal, its note states by how much, and why."""
    if row.met is not False or row.goal is None:
        return row
    by = f"{row.median / row.goal.value:.2f} times the goal" if row.goal.value else f"{row.median:.2g} and not 0"
    return replace(row, note=f"{by}: {why}")


def runnable(*kinds: str) -> list[Description]:
    """Return the tools of these kinds that can run here."""
    return [tool for tool in tools.of(*kinds) if not refusal(tool)]


def frame_tools(*kinds: str) -> list[Description]:
    """Return the runnable tools of these kinds that see frames, not calls of applications."""
    return [tool for tool in runnable(*kinds) if tool.at == FRAMES]


def refused(figure: str, quantity: str, unit: str, *kinds: str) -> Iterator[Measurement]:
    """Yield a row with the reason for each tool of these kinds that cannot run here."""
    for tool in tools.of(*kinds):
        if why := refusal(tool):
            yield Measurement(figure, tool.name, quantity, unit, refused=why)
