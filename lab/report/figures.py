"""The bench of a run for the page: goals, the truth corpus, errors of probes and peers, and costs."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lab.report.chart import Plot, Scale, cumulative, series, share_scale
from lab.report.measured import CANNOT_RUN, CORPUS, OURS, Row, verdict_of
from lab.report.raw import Raw
from lab.report.table import Cell, amount, count
from lab.results.measurement import FILE
from lab.results.reader import RunFolder
from lab.units import amount_text

ACCURACY = "accuracy"
_COSTS = ("kernel cost", "observer effect")
_SIZES = ("error", "distance")  # quantities with one sample for each value: lab/bench/chapters/accuracy.py
_SHARES = ("told", "right")  # quantities shown next to the errors


@dataclass(frozen=True)
class Dot:
    """A row on its strip: the places of its interval's ends and of its median."""

    row: Row
    low: float
    high: float
    median: float


@dataclass(frozen=True)
class Strips:
    """One quantity under the same conditions, for several tools on one scale. `goal` is the place of the goal."""

    title: str
    dots: list[Dot]
    goal: float | None
    logarithmic: bool


@dataclass(frozen=True)
class Trend:
    """A quantity against the one condition that varies (`against`), a line for each tool."""

    title: str
    against: str
    plot: Plot
    rows: list[Row]


@dataclass(frozen=True)
class Chapter:
    """A chapter of the bench: pictures of comparable rows, and the rows with nothing to compare with (`alone`)."""

    title: str
    pictures: list[Strips | Trend]
    alone: list[Row]


@dataclass(frozen=True)
class Errors:
    """The errors of all tools that measure a quantity, pooled over the conditions.

    `columns` names the percentiles and shares of the table. `tools` holds for each tool: its name, whether it is one of
    the lab's own, its cells by column, and its rows.
    """

    title: str
    columns: list[str]
    plot: Plot | None
    tools: list[tuple[str, bool, dict[str, Cell], list[Row]]]
    refused: list[Row]


@dataclass(frozen=True)
class Unmeasured:
    """A tool without values: the reason, and the rows that it applies to."""

    tool: str
    reason: str
    rows: list[Row]

    @property
    def figures(self) -> str:
        """Names of the figures, each once."""
        return ", ".join(dict.fromkeys(row.measured.figure for row in self.rows))


@dataclass(frozen=True)
class Tile:
    """A number in large print: `of` is its label, `note` the text below, `part` the section with the details.

    `good` selects its colour; None is neutral.
    """

    value: str
    of: str
    note: str
    part: str
    good: bool | None = None


@dataclass(frozen=True)
class Bench:
    """All measurements of a run. `slots` gives each tool the number of its colour."""

    rows: list[Row]
    slots: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, run: RunFolder, raw: Raw) -> "Bench":
        """Read the measurements of a run, and add their raw rows to `raw`."""
        measured = run.measurements
        text = (run.path / FILE).read_text(encoding="utf-8", errors="replace") if measured else ""
        lines = [line for line in text.split("\n") if line.strip()]
        rows = [
            Row(one, raw.add(f"{one.figure}: {one.quantity} of {one.tool}", run.path / FILE, [(number, line)]))
            for number, (one, line) in enumerate(zip(measured, lines, strict=True), 1)
        ]
        tools = sorted(dict.fromkeys(row.measured.tool for row in rows), key=lambda tool: not tool.startswith(OURS))
        return cls(rows, {tool: slot for slot, tool in enumerate(tools)})

    @property
    def goals(self) -> list[Row]:
        """Rows with a goal: missed goals first, then rows without a value, then reached goals."""
        order = {"missed": 0, "refused": 1, "": 2, "reached": 3}
        return sorted((row for row in self.rows if row.measured.goal), key=lambda row: order[row.verdict])

    @property
    def reached(self) -> int:
        """Number of goals reached."""
        return sum(row.measured.met is True for row in self.goals)

    @property
    def costs(self) -> list[Chapter]:
        """All measured rows by chapter, without accuracy and corpus."""
        measured = self._others(refused=False)
        return [self._chapter(figure, rows) for figure, rows in _grouped(measured, lambda one: one.figure)]

    def _chapter(self, figure: str, rows: list[Row]) -> Chapter:
        pictures: list[Strips | Trend] = []
        alone: list[Row] = []
        for (quantity, _), same in _grouped(rows, lambda one: (one.quantity, one.unit)):
            if varying := _varying(same):
                pictures.append(self._trend(quantity, varying, same))
                continue
            for conditions, several in _grouped(same, lambda one: one.conditions_text):
                if len(several) > 1:
                    pictures.append(_strips(f"{quantity} ({conditions})" if conditions else quantity, several))
                else:
                    alone += several
        return Chapter(figure, pictures, alone)

    @property
    def unmeasured(self) -> list[Unmeasured]:
        """Rows without a value, by tool and reason."""
        refused = self._others(refused=True)
        return [
            Unmeasured(tool, reason, rows)
            for (tool, reason), rows in _grouped(refused, lambda one: (one.tool, one.refused))
        ]

    def _others(self, *, refused: bool) -> list[Row]:
        """Return the rows outside accuracy and corpus: those that were measured, or those `refused`."""
        return [
            row
            for row in self.rows
            if row.measured.figure not in {ACCURACY, CORPUS} and (row.measured.refused is not None) is refused
        ]

    def _trend(self, title: str, varying: str, rows: list[Row]) -> Trend:
        points: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            if row.measured.samples:
                points.setdefault(row.measured.tool, []).append(
                    (float(row.measured.conditions[varying]), row.measured.median)
                )
        unit = rows[0].measured.unit
        return Trend(f"{title}{f' ({unit})' if unit else ''}", varying, series(points, self.slots), rows)

    @property
    def errors(self) -> list[Errors]:
        """The errors, by quantity."""
        found = []
        accurate = [row for row in self.rows if row.measured.figure == ACCURACY]
        shares: dict[tuple[str, str], dict[str, Cell]] = {}
        for (tool, (share, _, of)), rows in _grouped(accurate, lambda one: (one.tool, one.quantity.partition(" of "))):
            if share in _SHARES:
                mean = float(np.mean([sample for row in rows for sample in row.measured.samples]))
                shares.setdefault((tool, of), {})[share] = amount(mean, "fraction")
        for (quantity, unit), rows in _grouped(accurate, lambda one: (one.quantity, one.unit)):
            size, _, of = quantity.partition(" of ")
            if size not in _SIZES:
                continue
            tools = _grouped([row for row in rows if row.measured.samples], lambda one: one.tool)
            pooled = {tool: np.concatenate([row.measured.samples for row in mine]) for tool, mine in tools}
            percentiles = {
                tool: {name: amount(float(np.percentile(np.abs(values), rank)), unit) for name, rank in _PERCENTILES}
                | ((size == _SIZES[0] and shares.get((tool, of))) or {"samples": count(len(values))})
                for tool, values in pooled.items()
            }
            found.append(
                Errors(
                    quantity,
                    list(dict.fromkeys(name for cells in percentiles.values() for name in cells)) or ["samples"],
                    cumulative(pooled, self.slots) if unit == "ns" else None,
                    [(tool, mine[0].ours, percentiles[tool], mine) for tool, mine in tools],
                    [row for row in rows if row.measured.refused is not None],
                )
            )
        return found

    @property
    def corpus(self) -> dict[str, dict[str, list[Row]]]:
        """The rows of the corpus, by its quantity and by tool."""
        found: dict[str, dict[str, list[Row]]] = {}
        for row in self.rows:
            if row.measured.figure == CORPUS:
                found.setdefault(row.measured.quantity, {}).setdefault(row.measured.tool, []).append(row)
        return found

    @property
    def corpus_tools(self) -> list[str]:
        """The tools with rows of the corpus, the lab's own first."""
        tools = {row.measured.tool for row in self.rows if row.measured.figure == CORPUS}
        return [tool for tool in self.slots if tool in tools]

    @property
    def tiles(self) -> Iterator[Tile]:
        """The main numbers: goals, known mistakes, and costs; for the lab's probes and for the peers."""
        if self.goals:
            yield Tile(
                f"{self.reached} of {len(self.goals)}", "goals reached", "", "goals", self.reached == len(self.goals)
            )
        own, others = (
            [
                verdict_of(rows)
                for tools in self.corpus.values()
                for tool, rows in tools.items()
                if tool.startswith(OURS) is ours
            ]
            for ours in (True, False)
        )
        if own:
            yield Tile(
                _share_right(own),
                "known mistakes avoided",
                f"peers: {_share_right(others)}" if others else "",
                "corpus",
                set(own) == {"right"},
            )
        costs = [row for row in self.rows if row.measured.figure in _COSTS and row.measured.samples]
        for (figure, quantity, unit), rows in _grouped(costs, lambda one: (one.figure, one.quantity, one.unit)):
            ours, peers = (
                _span([row.measured.median for row in rows if row.ours is own], unit) for own in (True, False)
            )
            if ours and peers:
                yield Tile(ours, f"{figure}, {quantity}", f"peers: {peers}", "cost")

    def costs_of(self, probe: str) -> list[Row]:
        """Return the rows of kernel cost and observer effect of one of the lab's probes."""
        return [
            row
            for row in self.rows
            if row.measured.tool == f"{OURS}{probe}" and row.measured.figure in _COSTS and row.measured.samples
        ]


_PERCENTILES = (("p50", 50), ("p99", 99), ("max", 100))


def _share_right(verdicts: list[str]) -> str:
    known = [verdict for verdict in verdicts if verdict != CANNOT_RUN]
    return f"{known.count('right')} of {len(known)}"


def _span(medians: list[float], unit: str) -> str:
    if not medians:
        return ""
    low, high = amount_text(min(medians), unit), amount_text(max(medians), unit)
    return low if low == high else f"{low} .. {high}"


def _strips(title: str, rows: list[Row]) -> Strips:
    known = [row for row in rows if row.measured.samples]
    goals = [row.measured.goal.value for row in known if row.measured.goal]
    scale: Scale = share_scale(
        [value for row in known for value in (*row.measured.interval, row.measured.median)] + goals[:1]
    )
    dots = [Dot(row, *(scale.at(value) for value in (*row.measured.interval, row.measured.median))) for row in known]
    return Strips(title, dots, scale.at(goals[0]) if goals else None, scale.logarithmic)


def _varying(rows: list[Row]) -> str | None:
    """Return the only condition that varies, if it is numeric and has at least three values; otherwise None."""
    names = list(dict.fromkeys(name for row in rows for name in row.measured.conditions))
    values = {name: {str(row.measured.conditions.get(name)) for row in rows} for name in names}
    vary = [name for name in names if len(values[name]) > 1]
    if len(vary) != 1 or len(values[vary[0]]) < 3:
        return None
    numbers = all(isinstance(row.measured.conditions.get(vary[0]), int | float) for row in rows if row.measured.samples)
    return vary[0] if numbers else None


def _grouped(rows: Iterable[Row], key: Any) -> list[tuple[Any, list[Row]]]:
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row.measured), []).append(row)
    return list(found.items())
