"""A measurement of the bench as the page shows it: texts, verdict, and the line in the table of all measurements."""

from collections.abc import Sequence
from dataclasses import dataclass

from lab.report.table import Cell, Column, Table, count
from lab.results.measurement import Measurement
from lab.units import amount_text

CORPUS = "corpus"
OURS = "lab "
"""Prefix of the names of the lab's own tools; all other tools are peers."""

CANNOT_RUN = "cannot run"

COLUMNS = (
    Column("run", hint="where it ran", choose=True),
    Column("figure", choose=True),
    Column("tool", choose=True),
    Column("quantity"),
    Column("conditions"),
    Column("median", "number"),
    Column("95 % interval", hint="of the median"),
    Column("samples", "number"),
    Column("goal", hint="what the median must reach"),
    Column("verdict", hint="whether it does; refused: the tool cannot run here", choose=True),
    Column("note"),
)


@dataclass(frozen=True)
class Row:
    """A measurement and the key of its raw row."""

    measured: Measurement
    raw: str

    @property
    def ours(self) -> bool:
        """True for a probe of the lab, false for a peer."""
        return self.measured.tool.startswith(OURS)

    @property
    def median(self) -> str:
        """The median with its unit."""
        return amount_text(self.measured.median, self.measured.unit)

    @property
    def interval(self) -> str:
        """The median's interval with its unit."""
        low, high = (amount_text(value, self.measured.unit) for value in self.measured.interval)
        return low if low == high else f"{low} .. {high}"

    @property
    def goal(self) -> str:
        """The bound for the median with its unit; empty without a goal."""
        goal = self.measured.goal
        return (
            f"{'at least' if goal.least else 'at most'} {amount_text(goal.value, self.measured.unit)}" if goal else ""
        )

    @property
    def missed_by(self) -> str:
        """The distance to a missed goal, absolute and relative; empty if the goal is not missed."""
        goal = self.measured.goal
        if goal is None or self.measured.met is not False:
            return ""
        short = amount_text(abs(self.measured.median - goal.value), self.measured.unit)
        part = f", {abs(self.measured.median - goal.value) / abs(goal.value):.0%}" if goal.value else ""
        return f"missed by {short}{part}"

    @property
    def verdict(self) -> str:
        """`reached`, `missed`, `refused` (the tool cannot run), or empty (no goal)."""
        if self.measured.refused is not None:
            return "refused"
        return {True: "reached", False: "missed", None: ""}[self.measured.met]

    def add_to(self, table: Table, label: str) -> None:
        """Add the measurement to the table of all measurements, with the label of its run."""
        one = self.measured
        cells: list[Cell] = [
            label,
            one.figure,
            one.tool,
            one.quantity,
            one.conditions_text,
            (one.median if one.samples else None, self.median),
            self.interval if one.samples else "",
            count(len(one.samples)),
            self.goal,
            self.verdict,
            one.refused or one.note or self.missed_by,
        ]
        table.rows.append((self.raw, self.verdict == "missed" or (one.figure == CORPUS and 0 in one.samples), cells))


def verdict_of(rows: Sequence[Row]) -> str:
    """Return a tool's result for a row of the corpus: `right`, `wrong`, `right in 2 of 3` or `cannot run`."""
    samples = [sample for row in rows for sample in row.measured.samples]
    right = sum(sample >= 1 for sample in samples)
    if not samples:
        return CANNOT_RUN
    return "right" if right == len(samples) else "wrong" if not right else f"right in {right} of {len(samples)}"
