"""Several runs side by side: the number of checks and of failed checks, by probe, by quantity and by run."""

from dataclasses import dataclass, field

import numpy as np

from lab.results.check_table import kinds, without_number
from lab.results.reader import RunFolder


@dataclass
class Cell:
    """The checks of a probe or of a quantity in one run. `attached` is the kinds of the probe's attach points."""

    checks: int = 0
    wrong: int = 0
    attached: str = ""

    def add(self, checks: int, wrong: int) -> None:
        """Add checks and failed checks."""
        self.checks += checks
        self.wrong += wrong


@dataclass
class Line:
    """A probe: one cell for each run, and one for each run and quantity."""

    cells: list[Cell]
    quantities: dict[str, list[Cell]] = field(default_factory=dict)


def matrix(runs: list[RunFolder]) -> dict[str, Line]:
    """Return the counts of all checks, by probe."""
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
