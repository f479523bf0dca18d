"""What every chapter of the bench is given: how thoroughly to measure, and which tools can run here."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

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


def explained(row: Measurement, why: str) -> Measurement:
    """Say of a row that misses its goal by how much it does, and why."""
    if row.met is not False or row.goal is None:
        return row
    by = f"{row.median / row.goal.value:.2f} times the goal" if row.goal.value else f"{row.median:.2g} and not 0"
    return replace(row, note=f"{by}: {why}")


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
