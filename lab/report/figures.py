"""What the bench of a run says, for the page: goals, the truth corpus, errors of probes and peers, and what everything costs."""

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
_SIZES = ("error", "distance")  # of what has a size for each value, lab/bench/chapters/accuracy.py
_SHARES = ("told", "right")  # which stand beside the errors


@dataclass(frozen=True)
class Dot:
    """A row on its strip: where the interval begins and ends, where the median is."""

    row: Row
    low: float
    high: float
    median: float


@dataclass(frozen=True)
class Strips:
    """The same quantity under the same conditions, tool by tool on one scale, and where on it the goal is."""

    title: str
    dots: list[Dot]
    goal: float | None
    logarithmic: bool


@dataclass(frozen=True)
class Trend:
    """A quantity against the one condition that varies, tool by tool."""

    title: str
    against: str
    plot: Plot
    rows: list[Row]


@dataclass(frozen=True)
class Chapter:
    """What a chapter of the bench has measured: pictures of what can be compared, and the rows of what stands alone."""

    title: str
    pictures: list[Strips | Trend]
    alone: list[Row]


@dataclass(frozen=True)
class Errors:
    """The errors of every tool that measures a quantity, pooled over the conditions, and tool by tool.

    `columns` names what there is of each tool: percentiles, and shares of its values.
    """

    title: str
    columns: list[str]
    plot: Plot | None
    tools: list[tuple[str, bool, dict[str, Cell], list[Row]]]
    refused: list[Row]


@dataclass(frozen=True)
class Unmeasured:
    """Why there is no value of a tool, and of which figures."""

    tool: str
    reason: str
    rows: list[Row]

    @property
    def figures(self) -> str:
        """The figures, each once."""
        return ", ".join(dict.fromkeys(row.measured.figure for row in self.rows))


@dataclass(frozen=True)
class Tile:
    """A figure in large print: what it is of, what stands beside it, which part of the page has more, and whether it is good."""

    value: str
    of: str
    beside: str
    part: str
    good: bool | None = None


@dataclass(frozen=True)
class Bench:
    """Everything the bench says."""

    rows: list[Row]
    slots: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, run: RunFolder, raw: Raw) -> "Bench":
        """Read the measurements of a run, and keep their raw rows."""
        measured = run.measurements
        lines = (run.path / FILE).read_text().splitlines() if measured else []
        rows = [
            Row(one, raw.add(f"{one.figure}: {one.quantity} of {one.tool}", run.path / FILE, [(number, line)]))
            for number, (one, line) in enumerate(zip(measured, lines, strict=True), 1)
        ]
        tools = sorted(dict.fromkeys(row.measured.tool for row in rows), key=lambda tool: not tool.startswith(OURS))
        return cls(rows, {tool: slot for slot, tool in enumerate(tools)})

    @property
    def goals(self) -> list[Row]:
        """What has a goal: the missed ones first, then what could not be measured."""
        order = {"missed": 0, "refused": 1, "": 2, "reached": 3}
        return sorted((row for row in self.rows if row.measured.goal), key=lambda row: order[row.verdict])

    @property
    def reached(self) -> int:
        """How many goals are reached."""
        return sum(row.measured.met is True for row in self.goals)

    @property
    def costs(self) -> list[Chapter]:
        """Everything but errors and verdicts, chapter by chapter."""
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
        """What the pictures do not show, by tool and reason."""
        refused = self._others(refused=True)
        return [
            Unmeasured(tool, reason, rows)
            for (tool, reason), rows in _grouped(refused, lambda one: (one.tool, one.refused))
        ]

    def _others(self, *, refused: bool) -> list[Row]:
        """Return the rows of everything but errors and verdicts that were measured, or `refused`."""
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
        """Errors by quantity."""
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
        """Verdicts by row of the corpus and by tool."""
        found: dict[str, dict[str, list[Row]]] = {}
        for row in self.rows:
            if row.measured.figure == CORPUS:
                found.setdefault(row.measured.quantity, {}).setdefault(row.measured.tool, []).append(row)
        return found

    @property
    def corpus_tools(self) -> list[str]:
        """Whose verdicts there are, the lab's own first."""
        tools = {row.measured.tool for row in self.rows if row.measured.figure == CORPUS}
        return [tool for tool in self.slots if tool in tools]

    @property
    def tiles(self) -> Iterator[Tile]:
        """What is known in five seconds: goals, known mistakes, and what our own probes cost, each beside the peers'."""
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
                "known mistakes not made",
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

    def told_of(self, probe: str) -> list[Row]:
        """Return what one of the lab's own probes costs, in the kernel and in what it observes."""
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
    """Return the one condition that varies, by numbers, from row to row of the same tool; None where that is no trend."""
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
