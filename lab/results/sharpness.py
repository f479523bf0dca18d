"""How many checks of a run were right, and how sharp they were: the widths of the brackets, by probe or by quantity.

The number of right values says little without the widths: every value is inside a bracket that is wide enough.

- A width is that of the interval of all values that pass: the bracket, the rounding of the value, and the tolerance.
- Checks without a width are counted apart, as exact: those of equality, and counts of a quantity whose brackets all
  have width 0.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from lab.output.text import aligned, printable
from lab.results.check_columns import CheckColumns, Group
from lab.results.check_table import without_number
from lab.units import amount_text

Key = TypeVar("Key", bound=Hashable)

TIME = "ns"
COUNT = ""
_QUANTILES = (0.5, 0.9)
_NAMES = {TIME: "times", COUNT: "counts"}


@dataclass(frozen=True)
class Sharpness:
    """The checks of one unit, and the widths of their brackets.

    - `checks`: their number; `wrong`: the number that failed; `exact`: the number without a width.
    - `p50`, `p90`: half and nine tenths of the other checks have at most this width; NaN if there are none.
    """

    unit: str
    checks: int
    wrong: int
    exact: int
    p50: float
    p90: float

    @property
    def sized(self) -> int:
        """The number of checks with a width."""
        return self.checks - self.exact

    @property
    def name(self) -> str:
        """`times` or `counts`."""
        return _NAMES.get(self.unit, printable(self.unit))

    @property
    def texts(self) -> tuple[str, str]:
        """`p50` and `p90` with their unit; `-` if no check has a width."""
        shown = (printable(amount_text(width, self.unit)) for width in (self.p50, self.p90))
        return (next(shown), next(shown)) if self.sized else ("-", "-")

    def as_dict(self) -> dict[str, int | float | None]:
        """Return the numbers for JSON, with None for an unknown width."""
        p50, p90 = (self.p50, self.p90) if self.sized else (None, None)
        return {"checks": self.checks, "wrong": self.wrong, "exact": self.exact, "width_p50": p50, "width_p90": p90}


def quantity_of(group: Group) -> tuple[str, str, str]:
    """Return the key of a quantity in all scenarios: its probe, its name without a running number, its unit."""
    return group.probe, without_number(group.quantity), group.unit


def sharpness(columns: CheckColumns, key: Callable[[Group], Key]) -> dict[tuple[Key, str], Sharpness]:
    """Return the sharpness of the checks, by the key of their group and by unit, in the order of the file.

    The quantiles are elements of the sample (nearest rank), so that "at most" is exact.
    """
    rows, groups = columns.rows, columns.groups
    if not groups:
        return {}
    quantities = _numbers([quantity_of(group) for group in groups])
    owners = _numbers([(key(group), group.unit) for group in groups])
    of_row = np.array([quantities[quantity_of(group)] for group in groups])[rows["group"]]
    owner = np.array([owners[key(group), group.unit] for group in groups])[rows["group"]]
    timed = np.array([group.unit == TIME for group in groups])[rows["group"]]
    varying = np.bincount(of_row, rows["width"] > 0, len(quantities)) > 0
    sized = ~np.isnan(rows["width"]) & (timed | varying[of_row])
    checks, wrong, having = (
        np.bincount(owner[chosen], minlength=len(owners)) for chosen in (slice(None), ~rows["passed"], sized)
    )
    widths = rows["width"][sized][np.lexsort((rows["width"][sized], owner[sized]))]
    ends = np.cumsum(having)
    found = {}
    for name, number in owners.items():
        ranks = [ends[number] - having[number] + max(0, int(np.ceil(part * having[number])) - 1) for part in _QUANTILES]
        p50, p90 = (float(widths[rank]) if having[number] else np.nan for rank in ranks)
        count = int(checks[number])
        found[name] = Sharpness(name[1], count, int(wrong[number]), count - int(having[number]), p50, p90)
    return found


def summary(columns: CheckColumns, judging: int | None = None) -> str:
    """Return how many checks there are, how many failed, and how sharp they were, as sentences.

    `judging` is the number of tests that judge, None outside the suite.
    """
    if not len(columns.rows):
        return _nothing_judged(judging)
    number = "1 check" if len(columns.rows) == 1 else f"{len(columns.rows):,} checks"
    first = next(columns.failed(), None)
    if first is None:
        return f"{number}: every measured value is consistent with the truth. {widths(columns)}"
    wrong = int((~columns.rows["passed"]).sum())
    return f"{number}, {wrong:,} failed; the first: {first.sentence()}. {widths(columns)}"


def _nothing_judged(judging: int | None) -> str:
    if judging == 0:
        return "No number was judged: none of these tests compares a number with the truth."
    tests = f", although {judging:,} of the tests judge{'s' * (judging == 1)} numbers" if judging else ""
    return f"No number was judged{tests}: nothing is known about the probes, and the run has failed."


def widths(columns: CheckColumns) -> str:
    """Return the widths of the brackets of a whole run as a sentence, "" without checks."""
    found = list(sharpness(columns, lambda _: None).values())
    parts = [
        f"of {one.sized:,} {one.name} p50 {one.texts[0]}, p90 {one.texts[1]}"
        for one in sorted(found, key=lambda one: one.unit != TIME)
        if one.sized
    ]
    exact = sum(one.exact for one in found)
    sentences = [f"Width of the brackets: {'; '.join(parts)}."] if parts else []
    if exact:
        sentences.append("1 check is exact." if exact == 1 else f"{exact:,} checks are exact.")
    return " ".join(sentences)


def table(columns: CheckColumns) -> str:
    """Return a table with one line for each probe: its checks, and the widths of the brackets of times and of counts.

    It fits 80 columns if the names of the probes are short.
    """
    found = sharpness(columns, lambda group: group.probe)
    none = Sharpness("", 0, 0, 0, np.nan, np.nan)
    lines = []
    for probe in dict.fromkeys(name for name, _ in found):
        times, counts = (found.get((probe, unit), none) for unit in (TIME, COUNT))
        sums = (times.checks + counts.checks, times.wrong + counts.wrong, times.exact + counts.exact)
        lines.append((probe, *(f"{number:,}" for number in sums), *times.texts, *counts.texts))
    return aligned(lines, ("probe", "checks", "wrong", "exact", "times p50", "p90", "counts p50", "p90"))


def _numbers(keys: list[Key]) -> dict[Key, int]:
    return {key: number for number, key in enumerate(dict.fromkeys(keys))}
