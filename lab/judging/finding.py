"""Findings: one value that a tool told, or should have told, beside the truth; and the verdicts."""

from collections.abc import Iterator, Mapping
from enum import StrEnum

from msgspec import Struct

from lab.judging.points import Point
from lab.judging.quantity import Quantity, Row
from lab.units import SECOND, amount_text

_TIME_OF_DAY_NS = 100 * SECOND


class Verdict(StrEnum):
    """What is true of a tool in a case; the first of these that applies.

    - `cannot run`: it did not come to observe. Its own words say why.
    - `crashed`: it observed, and then ended by itself with an error.
    - `changed the traffic`: with it the traffic failed or was retransmitted, and without it not.
    - `not compliant`: it told something of a connection that never was.
    - `wrong`: a value contradicts the tool's own definition.
    - `missing`: it told nothing where its definition has a value, and did not say so.
    - `lost`: a value is missing, and the tool says that it lost some.
    - `unknown`: the tool says that it does not know a value. All others are right.
    - `right`: every value lies within the truth.
    - `not asked`: the tool does not claim what the case is about.
    """

    CANNOT_RUN = "cannot run"
    CRASHED = "crashed"
    CHANGED = "changed the traffic"
    NOT_COMPLIANT = "not compliant"
    WRONG = "wrong"
    MISSING = "missing"
    LOST = "lost"
    UNKNOWN = "unknown"
    RIGHT = "right"
    NOT_ASKED = "not asked"


FAILING = (Verdict.WRONG, Verdict.MISSING, Verdict.CRASHED, Verdict.CHANGED, Verdict.NOT_COMPLIANT)
"""The verdicts that make a tool fail, unless others are chosen."""

SEVERITY = tuple(Verdict)
"""All verdicts, the gravest first."""


class Finding(Struct, frozen=True):
    """One value of a tool beside the truth.

    - `low`, `high`: the interval of the truth, in `unit`: `ns`, or a count.
    - `told`: the tool's value; None if it told none. `distance`: how far it is outside of the interval, less the tool's own
      resolution.
    - `truth`: the truth in words, where it is no interval. `known_by`: how the truth is known.
    - `rows`: the tool's own lines.
    """

    quantity: str
    subject: str
    verdict: Verdict
    unit: str = ""
    low: int | None = None
    high: int | None = None
    told: int | float | str | None = None
    distance: int = 0
    truth: str = ""
    known_by: str = ""
    rows: list[str] = []
    best: int | None = None

    @property
    def off(self) -> float | None:
        """Distance from the best estimate of the truth; None for an unknown value."""
        return None if self.best is None or not isinstance(self.told, int | float) else abs(self.told - self.best)

    def sentence(self) -> str:
        """Return the finding as one sentence."""
        truth = self.truth or self._interval()
        if self.told is None:
            return f"{self.quantity} of {self.subject}: the tool tells nothing, the truth is {truth}"
        told = self.told if isinstance(self.told, str) else _text(self.told, self.unit)
        by = f", {amount_text(self.distance, self.unit)} off" if self.distance else ""
        return f"{self.quantity} of {self.subject}: the tool tells {told}, the truth is {truth}{by}"

    def _interval(self) -> str:
        if self.low is None or self.high is None:
            return "not known"
        low, high = (_text(value, self.unit) for value in (self.low, self.high))
        return low if low == high else f"between {low} and {high}"


def _text(value: float, unit: str) -> str:
    """Return a value with its unit. A time of day has microseconds."""
    return f"{value / SECOND:.6f} s" if unit == "ns" and value >= _TIME_OF_DAY_NS else amount_text(value, unit)


def worst(verdicts: list[Verdict]) -> Verdict:
    """Return the gravest verdict; `NOT_ASKED` if there is none."""
    return min(verdicts, key=SEVERITY.index, default=Verdict.NOT_ASKED)


def value(
    quantity: str,
    subject: str,
    interval: tuple[int, int, int],
    told: float | None,
    *,
    unit: str = "ns",
    resolution: int = 0,
    known_by: str = "",
    rows: list[str] | None = None,
) -> Finding:
    """Return the finding of a value whose truth is an interval (low, high, best); None is said to be unknown."""
    low, high, best = interval
    if told is None:
        return Finding(
            quantity, subject, Verdict.UNKNOWN, unit, low, high, None, known_by=known_by, rows=rows or [], best=best
        )
    distance = max(0, low - resolution - told, told - high - resolution)
    verdict = Verdict.WRONG if distance else Verdict.RIGHT
    return Finding(
        quantity, subject, verdict, unit, low, high, told, int(distance), known_by=known_by, rows=rows or [], best=best
    )


def timed(
    quantity: Quantity, row: Row, subject: str, point: Point | None, clocks: Mapping[str, int]
) -> Iterator[Finding]:
    """Yield the finding of a row's own time, if the tool tells one and the time of its point is known."""
    told_ns, offset_ns = row.get("time"), clocks.get(quantity.clock)
    if told_ns is None or offset_ns is None or point is None:
        return
    low_ns, high_ns = point.low_ns + offset_ns, point.high_ns + offset_ns
    # A wall clock that is set while a tool runs moves its times; the offset itself is known to a microsecond.
    resolution_ns = quantity.resolution_ns + (0 if quantity.clock == "monotonic" else 1000)
    yield value(
        f"time of the row ({quantity.clock})", subject, (low_ns, high_ns, (low_ns + high_ns) // 2), told_ns,
        resolution=resolution_ns, known_by=point.known_by, rows=[row.raw],
    )  # fmt: skip


def matched(
    quantity: str,
    subject: str,
    truth: str,
    told: str | None,
    *,
    right: bool,
    known_by: str = "",
    rows: list[str] | None = None,
) -> Finding:
    """Return the finding of a value whose truth is no interval."""
    verdict = Verdict.RIGHT if right else Verdict.WRONG
    return Finding(quantity, subject, verdict, told=told, truth=truth, known_by=known_by, rows=rows or [])


def absent(
    quantity: str,
    subject: str,
    interval: tuple[int, int, int] | None,
    *,
    lost: int,
    unit: str = "ns",
    known_by: str = "",
    truth: str = "",
) -> Finding:
    """Return the finding of a value that a tool did not tell; `lost` is the number that it says it lost."""
    low, high, best = interval or (None, None, None)
    verdict = Verdict.LOST if lost else Verdict.MISSING
    return Finding(quantity, subject, verdict, unit, low, high, None, truth=truth, known_by=known_by, best=best)
