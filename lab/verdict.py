"""Comparison of measured values with the truth: a value outside its bracket is provably wrong."""

import json
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from lab.output.text import printable

Value = int | str | None


class Bracket(NamedTuple):
    """An interval that contains the true value, ends included, and its best estimate; nanoseconds or a count."""

    low: int
    high: int
    best: int

    @classmethod
    def early(cls, low: int, high: int) -> Self:
        """Return an interval whose best estimate is the lower end: for events that happen as soon as possible."""
        return cls(low, high, low)

    @classmethod
    def middle(cls, low: int, high: int) -> Self:
        """Return an interval whose best estimate is the middle."""
        return cls(low, high, (low + high) // 2)

    @classmethod
    def late(cls, low: int, high: int) -> Self:
        """Return an interval whose best estimate is the upper end: for events right before the later timestamp."""
        return cls(low, high, high)

    @classmethod
    def exactly(cls, value: int) -> Self:
        """Return the interval of one value."""
        return cls(value, value, value)

    def common(self, other: Self) -> tuple[int, int]:
        """Return the ends of the part that two intervals of the same value have in common."""
        return max(self.low, other.low), min(self.high, other.high)

    @classmethod
    def between(cls, start: Self, end: Self) -> Self:
        """Return the time from one point in time to a later one; the best estimate is the middle."""
        return cls.middle(max(0, end.low - start.high), end.high - start.low)


@dataclass(frozen=True)
class Check:
    """One comparison of a probe's value with the truth: a row of `checks.jsonl`.

    - `subject`: the measured object, for example a flow.
    - `low`, `high`: the bracket of the truth.
    - `error`: `measured` minus the best estimate of the truth; None if the values are not numbers.
    - `lost`: events missing from the recording.
    - `verdict`: `inside`, `outside`, or `far`: inside, but with an error above `tolerance`.
    - `tolerance`: set only on the virtual clock.
    - `resolution`: rounding of the measured value, which may be this far outside the bracket.
    """

    scenario: str
    probe: str
    attach_point: str
    subject: str
    quantity: str
    unit: str
    low: Value
    high: Value
    measured: Value
    error: int | None
    lost: int
    verdict: str
    tolerance: int | None = None
    resolution: int = 0

    @property
    def passed(self) -> bool:
        """Whether the measured value is consistent with the truth and within the tolerance."""
        return self.verdict == "inside"

    @property
    def is_time(self) -> bool:
        """Whether the value is a point in time: `first SYN at`. Those are nanoseconds on `CLOCK_MONOTONIC`."""
        return self.unit == "ns" and self.quantity.endswith(" at")

    @property
    def passing(self) -> tuple[int, int] | None:
        """The lowest and the highest value that pass; None for a check of equality, which has no interval."""
        low, high = self.low, self.high
        if self.error is None or not (
            isinstance(low, int) and isinstance(high, int) and isinstance(self.measured, int)
        ):
            return None
        low, high = low - self.resolution, high + self.resolution
        if self.tolerance is not None:
            best = self.measured - self.error
            low, high = max(low, best - self.tolerance), min(high, best + self.tolerance)
        return low, high

    @property
    def width(self) -> int | None:
        """The width of the interval of all values that pass; None for a check of equality."""
        return None if self.passing is None else self.passing[1] - self.passing[0]

    def within(self, tolerance: int) -> Self:
        """Return the same check with a tolerance: an error above it fails, too."""
        far = self.passed and self.error is not None and abs(self.error) > tolerance
        return replace(self, tolerance=tolerance, verdict="far" if far else self.verdict)

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(vars(self), ensure_ascii=False)

    def sentence(self) -> str:
        """Return one sentence with the measured value and the truth."""
        truth = str(self.low) if self.low == self.high else f"between {self.low} and {self.high}"
        measured = f"{self.measured} {self.unit}".rstrip()
        found = f"{self.quantity} of {self.subject}: {self.probe} reports {measured}, the truth is {truth}"
        far = f", the error is {self.error} {self.unit} from the best estimate" if self.verdict == "far" else ""
        return printable(found + far)


@dataclass(frozen=True)
class Judge:
    """Creates the checks of one probe in one scenario."""

    scenario: str
    probe: str
    attach_point: str
    lost: int = 0

    def duration(
        self, subject: str, quantity: str, bracket: Bracket, measured_ns: int, resolution_ns: int = 0
    ) -> Check:
        """Return the check of a time.

        A value that the kernel rounds stands for all times within `resolution_ns` of it. A negative time is unknown and
        never inside.
        """
        inside = max(0, bracket.low - resolution_ns) <= measured_ns <= bracket.high + resolution_ns
        error = measured_ns - bracket.best
        check = self._check(subject, quantity, "ns", bracket.low, bracket.high, measured_ns, error, inside)
        return replace(check, resolution=resolution_ns) if resolution_ns else check

    def count(self, subject: str, quantity: str, bracket: Bracket, measured: int) -> Check:
        """Return the check of a count."""
        inside = bracket.low <= measured <= bracket.high
        error = measured - bracket.best
        return self._check(subject, quantity, "", bracket.low, bracket.high, measured, error, inside)

    def equal(self, subject: str, quantity: str, truth: Value, measured: Value) -> Check:
        """Return the check of a value whose truth is known exactly."""
        return self._check(subject, quantity, "", truth, truth, measured, None, truth == measured)

    def one_of(self, subject: str, quantity: str, truths: list[str], measured: str) -> Check:
        """Return the check of a value with several possible truths, for example the outcome of a race."""
        truth = measured if measured in truths else " or ".join(truths)
        return self._check(subject, quantity, "", truth, truth, measured, None, measured in truths)

    def _check(
        self,
        subject: str,
        quantity: str,
        unit: str,
        low: Value,
        high: Value,
        measured: Value,
        error: int | None,
        inside: bool,  # noqa: FBT001 (the result of a comparison)
    ) -> Check:
        verdict = "inside" if inside else "outside"
        return Check(
            self.scenario,
            self.probe,
            self.attach_point,
            subject,
            quantity,
            unit,
            low,
            high,
            measured,
            error,
            self.lost,
            verdict,
        )
