"""The checks of a run for the page: summed up by probe, and by scenario, probe and quantity."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lab.arrays import Integers, Rows
from lab.report import story
from lab.report.chart import Bar, Numbers, Plot, bracket, cumulative, positions, signed
from lab.report.raw import Raw
from lab.report.story import Story
from lab.report.table import Cell, Column, Table, amount, count
from lab.results import check_table
from lab.results.check_columns import CheckColumns, Group, decoded
from lab.results.reader import RunFolder
from lab.results.sharpness import TIME, Sharpness, quantity_of, sharpness
from lab.units import amount_text
from lab.verdict import Check

MOST_ROWS = 40_000
"""Limit of raw rows in the page: all failed rows, then the worst and a typical row of each line of the table."""

_LONGEST = 48  # characters of a value in the table

COLUMNS = (
    Column("run", hint="where it ran", choose=True),
    Column("scenario"),
    Column("probe", choose=True),
    Column("quantity"),
    Column("verdict", hint="right: every value is consistent with the truth", choose=True),
    Column("checks", "number"),
    Column("wrong", "number", "values outside their bracket, or with an error above the tolerance"),
    Column("width p50", "number", "half of the brackets are at most this wide; -: checks of equality have no width"),
    Column("width p90", "number", "nine tenths of the brackets are at most this wide"),
    Column("median error", "number", "median of the absolute errors, against the best estimate of the truth"),
    Column("largest error", "number", "largest absolute error"),
    Column("bracket", "bracket", "the worst row: the bar contains the truth, the mark is the measured value"),
    Column("truth", hint="of the same row; a point in time counts from the start of its bracket"),
    Column("measured", hint="of the same row"),
)


@dataclass(frozen=True)
class Probe:
    """The checks of a probe, summed up.

    - `checks`: their number; `wrong`: the number that failed.
    - `far`: the failed checks whose value is inside the bracket, but whose error is above the tolerance.
    - `lost`: the largest number of events missing from one recording.
    - `widths`: the sharpness of its times and of its counts; `quantities`: that of each quantity, by name.
    - `errors`: the errors of all times, in ns.
    - `strip`: a histogram of the places of all times in their brackets.
    """

    name: str
    checks: int
    wrong: int
    far: int
    lost: int
    attach_points: str
    widths: list[Sharpness]
    quantities: list[tuple[str, Sharpness]]
    errors: Numbers
    strip: list[Bar]

    @property
    def exact(self) -> int:
        """The number of checks without a width."""
        return sum(one.exact for _, one in self.quantities)

    @property
    def kinds(self) -> str:
        """The kinds of its attach points, each once."""
        return check_table.kinds(self.attach_points)

    @property
    def sizes(self) -> dict[str, Cell]:
        """Percentiles of the absolute errors, and the largest; empty without errors."""
        if not len(self.errors):
            return {}
        sizes = np.percentile(np.abs(self.errors), (50, 90, 99, 100))
        return {name: amount(float(size), "ns") for name, size in zip(("p50", "p90", "p99", "max"), sizes, strict=True)}

    @property
    def histogram(self) -> Plot | None:
        """Histogram of the errors; None without errors."""
        return signed(self.errors)


@dataclass(frozen=True)
class Shown:
    """A check shown on its own.

    It has its texts, its bracket on a strip, the key of its raw row, the label of its run, and its story if the run has one.
    """

    check: Check
    truth: str
    measured: str
    error: str
    strip: tuple[float, float, float] | None
    raw: str
    run: str
    story: Story | None

    @property
    def away(self) -> str:
        """How far the value is outside its bracket: `3.000 ms too large`; empty if it is inside, or no number."""
        low, high, measured = self.check.low, self.check.high, self.check.measured
        if not (isinstance(low, int) and isinstance(high, int) and isinstance(measured, int)):
            return ""
        if low <= measured <= high:
            return ""
        by = amount_text(max(low - measured, measured - high), self.check.unit)
        return f"{by} too {'small' if measured < low else 'large'}"

    @classmethod
    def of(cls, line: str, raw: str, run: str, stories: Mapping[Check, Story]) -> "Shown":
        """Return the check in a line of the file."""
        check = decoded(line)
        return cls(check, *check_table.texts(check), bracket(check), raw, run, stories.get(check))


def probes(columns: CheckColumns) -> list[Probe]:
    """Sum up the checks of each probe, in the order of the file."""
    names = list(dict.fromkeys(group.probe for group in columns.groups))
    owner = np.array([names.index(group.probe) for group in columns.groups], int)
    in_time = np.array([group.unit == TIME for group in columns.groups], bool)
    of_probe, of_quantity = sharpness(columns, lambda group: group.probe), sharpness(columns, quantity_of)
    rows, found = columns.rows, []
    for number, name in enumerate(names):
        mine = rows[owner[rows["group"]] == number]
        timed = mine[in_time[mine["group"]]]
        places = timed["position"]
        found.append(
            Probe(
                name,
                len(mine),
                int((~mine["passed"]).sum()),
                int(mine["far"].sum()),
                columns.lost[name],
                ", ".join(columns.attach_points[name]),
                sized([one for (probe, _), one in of_probe.items() if probe == name]),
                [(quantity, one) for ((probe, quantity, _), _), one in of_quantity.items() if probe == name],
                timed["error"][~np.isnan(timed["error"])],
                positions(
                    places[~np.isnan(places)],
                    *(int((beyond & ~timed["passed"]).sum()) for beyond in (places < 0, places > 1)),
                ),
            )
        )
    return found


def sized(found: list[Sharpness]) -> list[Sharpness]:
    """Return those whose checks have widths, times first."""
    return sorted((one for one in found if one.sized), key=lambda one: one.unit != TIME)


def curves(found: list[Probe]) -> Plot | None:
    """Draw the cumulative distribution of each probe's absolute errors; None without errors."""
    return cumulative(
        {probe.name: probe.errors for probe in found}, {probe.name: slot for slot, probe in enumerate(found)}
    )


class CheckTable:
    """The table of checks of several runs: one line for each run, scenario, probe and quantity, with raw rows.

    Quantities with a running number, such as those of each call of recv(), share a line.

    `failed` lists the failed checks, `rows` counts the raw rows, `not_kept` the lines without a raw row.
    """

    def __init__(self, raw: Raw) -> None:
        self.table = Table(list(COLUMNS))
        self.failed: list[Shown] = []
        self.checks = self.rows = self.not_kept = 0
        self._raw = raw

    def add(self, run: RunFolder, label: str) -> None:
        """Add the checks of a run, lines with the most failed checks first."""
        columns = run.checks.without_numbers()
        self.checks += len(columns.rows)
        wrong = np.bincount(columns.rows["group"][~columns.rows["passed"]], minlength=len(columns.groups))
        members, stories = columns.members(), story.read(run.path)
        sharp = sharpness(columns, lambda group: group)
        for number in np.argsort(-wrong, kind="stable").tolist():
            rows = columns.rows[members[number]]
            kept = members[number][_examples(rows)[: MOST_ROWS - self.rows]]
            key, shown = self._keep(label, columns, kept, stories, of=len(rows))
            self.failed += [row for row in shown if not row.check.passed]
            group = columns.groups[number]
            cells = self._cells(label, group, sharp[group, group.unit], rows, shown)
            self.table.rows.append((key, bool(wrong[number]), cells))

    def _cells(self, label: str, group: Group, sharp: Sharpness, rows: Rows, shown: list[Shown]) -> list[Cell]:
        wrong = int((~rows["passed"]).sum())
        sizes = np.abs(rows["error"][~np.isnan(rows["error"])])
        median, largest = (float(np.median(sizes)), float(sizes.max())) if len(sizes) else (np.nan, np.nan)
        return [
            label,
            group.scenario,
            group.probe,
            group.quantity,
            "wrong" if wrong else "right",
            count(len(rows)),
            count(wrong),
            *_width_cells(sharp),
            amount(median, group.unit),
            amount(largest, group.unit),
            shown[0].strip if shown else None,
            _short(shown[0].truth) if shown else "",
            _short(shown[0].measured) if shown else "",
        ]

    def _keep(
        self, label: str, columns: CheckColumns, positions: Integers, stories: Mapping[Check, Story], of: int
    ) -> tuple[str | None, list[Shown]]:
        """Keep the rows of a group at these positions; returns their key, and the checks in them."""
        if not len(positions):
            self.not_kept += 1
            return None, []
        self.rows += len(positions)
        lines = list(columns.lines(positions))
        note = (
            ""
            if of == len(lines)
            else f"{len(lines):,} of {of:,} rows: all wrong ones, the largest error, and a median error"
        )
        key = self._raw.add(
            columns.groups[columns.rows["group"][positions[0]]].quantity,
            columns.path,
            zip((positions + 1).tolist(), lines, strict=True),
            note,
        )
        return key, [Shown.of(line, key, label, stories) for line in lines]


def _short(text: str) -> str:
    """Return the beginning of a long text; the raw row has all of it."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _width_cells(sharp: Sharpness) -> list[Cell]:
    p50, p90 = sharp.texts
    return [(sharp.p50, p50), (sharp.p90, p90)] if sharp.sized else [(None, p50), (None, p90)]


def _examples(rows: Rows) -> Integers:
    """Return the indexes of the rows to keep: all failed rows, and of the others the largest and the median error."""
    order = np.argsort(np.nan_to_num(-np.abs(rows["error"])), kind="stable")
    right, wrong = order[rows["passed"][order]], order[~rows["passed"][order]]
    return np.concatenate([wrong, right[:1], right[1:][len(right) // 2 - 1 :][:1]])
