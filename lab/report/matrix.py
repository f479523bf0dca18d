"""Several runs side by side: for each probe, and each quantity of it, how many values were right in each run."""

from dataclasses import dataclass, field

import numpy as np

from lab.results.check_table import kinds, without_number
from lab.results.reader import RunFolder


@dataclass
class Cell:
    """The checks of a probe, or of one quantity, in one run; and the kinds of attach points."""

    checks: int = 0
    wrong: int = 0
    attached: str = ""

    def add(self, checks: int, wrong: int) -> None:
        """Count some more."""
        self.checks += checks
        self.wrong += wrong


@dataclass
class Line:
    """A probe: a cell for each run, and the same for each of its quantities."""

    cells: list[Cell]
    quantities: dict[str, list[Cell]] = field(default_factory=dict)


def matrix(runs: list[RunFolder]) -> dict[str, Line]:
    """Count the checks of each probe and quantity, run by run."""
    lines: dict[str, Line] = {}
    for number, run in enumerate(runs):
        columns = run.checks
        checks = np.bincount(columns.rows["group"], minlength=len(columns.groups)).tolist()
        right = np.bincount(columns.rows["group"][columns.rows["passed"]], minlength=len(columns.groups)).tolist()
        for group, count, inside in zip(columns.groups, checks, right, strict=True):
            line = lines.setdefault(group.probe, Line([Cell() for _ in runs]))
            line.cells[number].add(count, count - inside)
            line.cells[number].attached = kinds(", ".join(columns.attach_points[group.probe]))
            line.quantities.setdefault(without_number(group.quantity), [Cell() for _ in runs])[number].add(
                count, count - inside
            )
    return lines
