"""Several runs side by side: the checks, the failed checks and the widths of brackets, by probe, quantity and run."""

from dataclasses import dataclass, field

from lab.report.verdicts import sized
from lab.results.check_table import kinds
from lab.results.reader import RunFolder
from lab.results.sharpness import Sharpness, quantity_of, sharpness


@dataclass
class Cell:
    """The checks of a probe or of a quantity in one run. `attached` is the kinds of the probe's attach points."""

    parts: list[Sharpness] = field(default_factory=list)
    attached: str = ""

    @property
    def checks(self) -> int:
        """Number of checks."""
        return sum(part.checks for part in self.parts)

    @property
    def wrong(self) -> int:
        """Number of failed checks."""
        return sum(part.wrong for part in self.parts)

    @property
    def widths(self) -> list[Sharpness]:
        """The sharpness of times and of counts, without units that have exact checks only."""
        return sized(self.parts)


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
        for (probe, _), part in sharpness(columns, lambda group: group.probe).items():
            cell = lines.setdefault(probe, Line([Cell() for _ in runs])).cells[number]
            cell.parts.append(part)
            cell.attached = kinds(", ".join(columns.attach_points[probe]))
        for ((probe, quantity, _), _), part in sharpness(columns, quantity_of).items():
            lines[probe].quantities.setdefault(quantity, [Cell() for _ in runs])[number].parts.append(part)
    return lines
