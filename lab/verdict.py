"""A measured value against what is known to be true: inside the bracket, or provably wrong."""

import json
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple, Self

Value = int | str | None


class Bracket(NamedTuple):
    """The interval, both ends included, that a true value lies in, and the best single estimate; nanoseconds or a count."""

    low: int
    high: int
    best: int

    @classmethod
    def early(cls, low: int, high: int) -> Self:
        """Return an interval whose lower end is the best estimate: what happens as soon as it can."""
        return cls(low, high, low)

    @classmethod
    def middle(cls, low: int, high: int) -> Self:
        """Return an interval without a better estimate than its middle."""
        return cls(low, high, (low + high) // 2)

    @classmethod
    def late(cls, low: int, high: int) -> Self:
        """Return an interval whose upper end is the best estimate: a stamp that follows at once."""
        return cls(low, high, high)

    @classmethod
    def exactly(cls, value: int) -> Self:
        """Return the interval of one value."""
        return cls(value, value, value)

    @classmethod
    def between(cls, start: Self, end: Self) -> Self:
        """Return how long it can have been from one point in time to a later one."""
        return cls.middle(max(0, end.low - start.high), end.high - start.low)


@dataclass(frozen=True)
class Check:
    """One comparison of a probe's number with the truth: a row of `checks.jsonl`.

    `subject` is what was measured (a flow), `error` measured minus the best estimate of the truth (None where values are
    not numbers), `lost` the events missing from the recording, `verdict` `inside`, `outside`, or `far`: inside, with an error of
    more than `tolerance`, which only is set where time is virtual.
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

    @property
    def passed(self) -> bool:
        """Tell whether the measured value is consistent with the truth, and as exact as it has to be."""
        return self.verdict == "inside"

    def within(self, tolerance: int) -> Self:
        """Return the same check where an error of more than `tolerance` fails as well."""
        far = self.passed and self.error is not None and abs(self.error) > tolerance
        return replace(self, tolerance=tolerance, verdict="far" if far else self.verdict)

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    def sentence(self) -> str:
        """Say what was expected and what came."""
        truth = str(self.low) if self.low == self.high else f"between {self.low} and {self.high}"
        said = f"{self.quantity} of {self.subject}: {self.probe} says {self.measured} {self.unit}, the truth is {truth}"
        return f"{said}, and it is {self.error} {self.unit} from the best estimate" if self.verdict == "far" else said


@dataclass(frozen=True)
class Judge:
    """Compares values of one probe in one scenario; each method returns the check."""

    scenario: str
    probe: str
    attach_point: str
    lost: int = 0

    def duration(
        self, subject: str, quantity: str, bracket: Bracket, measured_ns: int, resolution_ns: int = 0
    ) -> Check:
        """Judge a time. A value that the kernel rounds stands for all times within `resolution_ns` of it.

        A negative time is an unknown one, and never inside.
        """
        inside = max(0, bracket.low - resolution_ns) <= measured_ns <= bracket.high + resolution_ns
        error = measured_ns - bracket.best
        return self._check(subject, quantity, "ns", bracket.low, bracket.high, measured_ns, error, inside)

    def count(self, subject: str, quantity: str, bracket: Bracket, measured: int) -> Check:
        """Judge a number of things, of which the bracket gives the possible ones."""
        inside = bracket.low <= measured <= bracket.high
        error = measured - bracket.best
        return self._check(subject, quantity, "", bracket.low, bracket.high, measured, error, inside)

    def equal(self, subject: str, quantity: str, truth: Value, measured: Value) -> Check:
        """Judge a value that is known exactly."""
        return self._check(subject, quantity, "", truth, truth, measured, None, truth == measured)

    def one_of(self, subject: str, quantity: str, truths: list[str], measured: str) -> Check:
        """Judge a value of which several are possible, such as the outcome of a race."""
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
        inside: bool,  # noqa: FBT001 (a comparison's result, passed on)
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
