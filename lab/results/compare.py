"""Differences between two runs: checks by scenario, probe and quantity, widths of brackets, and the bench.

- Two samples are compared by the test of Mann and Whitney (1947), which assumes no distribution.
- The p-values are corrected for multiple comparisons (Benjamini and Hochberg 1995): at most 5 % of the changes reported
  as significant are expected to be chance. Checks and bench are corrected separately.
- Widths of brackets are not tested: with many checks the smallest difference would be significant. A change is
  shown if it exceeds a factor of `FACTOR`.
- All samples of a run come from one machine and one hour. A significant difference between two runs may therefore be
  caused by the machine and not by the program.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from lab.results.check_columns import CheckColumns, Group
from lab.results.measurement import Measurement
from lab.results.reader import RunFolder
from lab.results.sharpness import Sharpness, quantity_of, sharpness

LEVEL = 0.05
"""The expected share of false positives among the changes reported as significant."""

FACTOR = 1.5
"""The ratio of widths above which a quantity counts as blunter or sharper. A busy machine can cause a larger one."""

_FEWEST = 3  # samples in each run; smaller samples are not tested

Name = TypeVar("Name", bound=tuple[str, ...])
Value = TypeVar("Value")
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shift:
    """The difference between two samples.

    - `before`, `after`: the medians.
    - `larger`: the probability that a value of the second sample is larger than a value of the first (0.5: equal).
    - `p`: the p-value, corrected for the number of comparisons.

    `larger` and `p` are None if the samples were not tested.
    """

    before: float
    after: float
    larger: float | None = None
    p: float | None = None

    @property
    def significant(self) -> bool:
        """True if the corrected p-value is below `LEVEL`."""
        return self.p is not None and self.p < LEVEL


@dataclass(frozen=True)
class Side:
    """The checks of a group in one run: their number and sharpness, and the absolute errors."""

    sharp: Sharpness
    sizes: Numbers = field(repr=False)

    @property
    def checks(self) -> int:
        """Number of checks."""
        return self.sharp.checks

    @property
    def wrong(self) -> int:
        """Number of failed checks."""
        return self.sharp.wrong


@dataclass(frozen=True)
class CheckChange:
    """A group of checks in both runs. `shift` compares the absolute errors; None if a run has none."""

    group: Group
    before: Side
    after: Side
    shift: Shift | None

    @property
    def verdict(self) -> str:
        """`broken` (only the second run is wrong), `mended` (only the first is), or `wrong` or `right` in both."""
        words = {(False, True): "broken", (True, False): "mended", (True, True): "wrong", (False, False): "right"}
        return words[bool(self.before.wrong), bool(self.after.wrong)]

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        sides = {name: side.sharp.as_dict() for name, side in (("before", self.before), ("after", self.after))}
        return {**self.group._asdict(), "verdict": self.verdict, **sides, "error": _shift_dict(self.shift)}


@dataclass(frozen=True)
class WidthChange:
    """The sharpness of a quantity in both runs, in the scenarios that both have."""

    probe: str
    quantity: str
    before: Sharpness
    after: Sharpness

    @property
    def growth(self) -> float:
        """The larger ratio of the widths (after to before) at p50 and p90; infinite if a width was 0 or exact before."""
        return max(_grown(self.before.p50, self.after.p50), _grown(self.before.p90, self.after.p90))

    @property
    def verdict(self) -> str:
        """`blunter` if p50 or p90 is more than `FACTOR` times as wide, `sharper` for the opposite, otherwise empty."""
        if self.growth > FACTOR:
            return "blunter"
        back = max(_grown(self.after.p50, self.before.p50), _grown(self.after.p90, self.before.p90))
        return "sharper" if back > FACTOR else ""

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        sides = {"before": self.before.as_dict(), "after": self.after.as_dict()}
        return {
            "probe": self.probe,
            "quantity": self.quantity,
            "unit": self.after.unit,
            "verdict": self.verdict,
        } | sides


def _grown(before: float, after: float) -> float:
    """Return the ratio of two widths; a check without a width is as sharp as one with width 0."""
    before, after = (0.0 if np.isnan(width) else width for width in (before, after))
    return after / before if before else 1.0 if not after else float("inf")


@dataclass(frozen=True)
class FigureChange:
    """A measurement in both runs.

    `ratio` is the ratio of the medians (after to before) and the ends of its 95 % interval. It is None without samples,
    or if the interval of a median reaches 0.
    """

    before: Measurement
    after: Measurement
    shift: Shift | None
    ratio: tuple[float, float, float] | None

    @property
    def verdict(self) -> str:
        """A change that needs no test (the tool runs, reaches its goal, is right, or the opposite); otherwise empty."""
        if (self.before.refused is None) != (self.after.refused is None):
            return "runs now" if self.after.refused is None else "cannot run any more"
        if self.before.met != self.after.met and self.after.met is not None:
            return "goal reached now" if self.after.met else "goal missed now"
        if self.after.unit == "verdict" and self.before.median != self.after.median:
            return "right now" if self.after.median > self.before.median else "wrong now"
        return ""

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        names = ("figure", "tool", "quantity", "unit", "conditions")
        ratio = self.ratio and dict(zip(("median", "low", "high"), self.ratio, strict=True))
        return {name: getattr(self.after, name) for name in names} | {
            "verdict": self.verdict,
            "ratio": ratio,
            "median": _shift_dict(self.shift),
        }


@dataclass(frozen=True)
class Comparison:
    """The checks and measurements that two runs share, and the names of those that only one of them has.

    `widths` has the quantities whose brackets have a width in one of the runs.
    """

    checks: list[CheckChange]
    widths: list[WidthChange]
    figures: list[FigureChange]
    only_before: list[str]
    only_after: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "level": LEVEL,
            "correction": "Benjamini-Hochberg",
            "checks": [change.as_dict() for change in self.checks],
            "widths": [change.as_dict() for change in self.widths],
            "measurements": [change.as_dict() for change in self.figures],
            "only_before": self.only_before,
            "only_after": self.only_after,
        }


def compare(before: RunFolder, after: RunFolder) -> Comparison:
    """Compare two runs. Raises `LabError` if one of them cannot be read."""
    checks, alone = _paired(_sides(before.checks), _sides(after.checks))
    rows, alone_rows = _paired(_rows(before.measurements), _rows(after.measurements))
    errors = _shifts([(one.sizes, other.sizes) for one, other in checks.values()])
    # A verdict is right or wrong: it needs no test.
    samples = [([], []) if one.unit == "verdict" else (one.samples, other.samples) for one, other in rows.values()]
    moved = _shifts([(np.array(one), np.array(other)) for one, other in samples])
    return Comparison(
        [CheckChange(group, *pair, shift) for (group, pair), shift in zip(checks.items(), errors, strict=True)],
        _widths(before.checks, after.checks, set(checks)),
        [FigureChange(*pair, shift, _ratio(*pair)) for pair, shift in zip(rows.values(), moved, strict=True)],
        *(
            [" / ".join(filter(None, name)) for name in (*groups, *names)]
            for groups, names in zip(alone, alone_rows, strict=True)
        ),
    )


def _paired(
    before: dict[Name, Value], after: dict[Name, Value]
) -> tuple[dict[Name, tuple[Value, Value]], tuple[list[Name], list[Name]]]:
    """Return the pairs of values with the same name, and the names that only the first and only the second has."""
    both = {name: (value, after[name]) for name, value in before.items() if name in after}
    return both, ([name for name in before if name not in both], [name for name in after if name not in both])


def _sides(columns: CheckColumns) -> dict[Group, Side]:
    found, sharp = {}, sharpness(columns, lambda group: group)
    for group, members in zip(columns.groups, columns.members(), strict=True):
        errors = columns.rows["error"][members]
        found[group] = Side(sharp[group, group.unit], np.abs(errors[~np.isnan(errors)]))
    return found


def _widths(before: CheckColumns, after: CheckColumns, both: set[Group]) -> list[WidthChange]:
    one, other = (
        sharpness(columns, lambda group: quantity_of(group) if group in both else None) for columns in (before, after)
    )
    return [
        WidthChange(*name[:2], one[key], other[key])
        for key in one
        if (name := key[0]) is not None and (one[key].sized or other[key].sized)
    ]


def _rows(measurements: list[Measurement]) -> dict[tuple[str, ...], Measurement]:
    return {(row.figure, row.tool, row.quantity, row.unit, row.conditions_text): row for row in measurements}


def _shifts(pairs: list[tuple[Numbers, Numbers]]) -> list[Shift | None]:
    """Compare each pair of samples; None if one of the two is empty."""
    from scipy import stats  # noqa: PLC0415 (takes half a second; only this command needs it)

    tests = {
        number: stats.mannwhitneyu(after, before)
        for number, (before, after) in enumerate(pairs)
        if _comparable(before, after)
    }
    adjusted = stats.false_discovery_control([test.pvalue for test in tests.values()]) if tests else []
    tested = {
        number: (float(test.statistic) / (len(pairs[number][0]) * len(pairs[number][1])), float(p))
        for (number, test), p in zip(tests.items(), adjusted, strict=True)
    }
    return [
        Shift(float(np.median(before)), float(np.median(after)), *tested.get(number, (None, None)))
        if len(before) and len(after)
        else None
        for number, (before, after) in enumerate(pairs)
    ]


def _comparable(before: Numbers, after: Numbers) -> bool:
    """Return true if both samples are large enough and not all values are equal. Other pairs are not tested."""
    return min(len(before), len(after)) >= _FEWEST and bool(np.ptp(np.concatenate([before, after])))


def _ratio(before: Measurement, after: Measurement) -> tuple[float, float, float] | None:
    """Return the ratio of the medians and its interval, computed from both intervals (Donner and Zou 2012)."""
    if not (before.samples and after.samples) or min(before.interval[0], after.interval[0]) <= 0:
        return None
    (low, high), (low_before, high_before) = np.log(after.interval), np.log(before.interval)
    middle, middle_before = np.log([after.median, before.median])
    ratio = middle - middle_before
    down = np.hypot(middle - low, high_before - middle_before)
    up = np.hypot(high - middle, middle_before - low_before)
    return float(np.exp(ratio)), float(np.exp(ratio - down)), float(np.exp(ratio + up))


def _shift_dict(shift: Shift | None) -> dict[str, Any] | None:
    return None if shift is None else asdict(shift) | {"significant": shift.significant}
