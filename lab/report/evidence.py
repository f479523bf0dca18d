"""What the page of a tool shows: its definitions, the findings of each case beside the truth, and the records of both sides.

What lives here: texts and pictures of one tool's judgements. What does not: files, tables of several tools (`lab.report.site`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from lab.judging import judgement
from lab.judging.finding import SEVERITY, Finding, Verdict
from lab.judging.judgement import Evidence, Judgement
from lab.judging.kinds import KINDS
from lab.judging.points import POINTS
from lab.judging.quantity import Quantity
from lab.report.chart import strip
from lab.report.standings import Judged
from lab.units import amount_text

_MOST = 200_000  # characters of one output in a page


class Mark(NamedTuple):
    """How a verdict is shown: a sign, the class of its colour, and what it means."""

    sign: str
    colour: str
    text: str


MARKS: Mapping[Verdict, Mark] = {
    Verdict.RIGHT: Mark("✓", "right", "every value lies within the interval of the truth"),
    Verdict.UNKNOWN: Mark("?", "right", "the tool says that it does not know a value; all others are right"),
    Verdict.LOST: Mark("!", "lost", "a value is missing, and the tool says that it lost some"),
    Verdict.MISSING: Mark("✗", "wrong", "a value is missing, and the tool does not say so"),
    Verdict.WRONG: Mark("✗", "wrong", "a value contradicts the tool's own definition"),
    Verdict.NOT_COMPLIANT: Mark("✗", "wrong", "the tool reports a connection that never was; no case was judged"),
    Verdict.CHANGED: Mark("✗", "wrong", "the traffic failed or was retransmitted with the tool, and not without it"),
    Verdict.CRASHED: Mark("✗", "wrong", "the tool observed, and then ended by itself with an error"),
    Verdict.CANNOT_RUN: Mark("·", "muted", "the tool did not start to observe here; its own words say why"),
    Verdict.NOT_ASKED: Mark("·", "muted", "the tool does not claim what the case is about"),
}


@dataclass(frozen=True)
class Shown:
    """A text of a tool or of a run in a page: its beginning if it is long. `whole` is its length in characters."""

    text: str
    whole: int

    @classmethod
    def of(cls, text: str) -> "Shown":
        """Return a text as the page shows it."""
        return cls(text[:_MOST], len(text))

    @property
    def cut(self) -> bool:
        """Whether the page has not all of it."""
        return len(self.text) < self.whole


@dataclass(frozen=True)
class Value:
    """A finding as texts, and the places of the interval and of the tool's value on a strip; None without numbers."""

    finding: Finding
    truth: str
    told: str
    distance: str
    strip: tuple[float, float, float] | None

    @classmethod
    def of(cls, finding: Finding) -> "Value":
        """Return a finding as the page shows it."""
        low, high, told = finding.low, finding.high, finding.told
        lowest, highest = (_amount(it, finding.unit) for it in (low, high))
        known = low is not None and high is not None
        interval = "not known" if not known else lowest if lowest == highest else f"{lowest} .. {highest}"
        return cls(
            finding,
            finding.truth or interval,
            told if isinstance(told, str) else "nothing" if told is None else _amount(told, finding.unit),
            _amount(finding.distance, finding.unit) if finding.distance else "",
            _strip(finding),
        )


def _amount(value: float | None, unit: str) -> str:
    """Return a number with its unit; a number that no float can hold, as it is."""
    try:
        return "" if value is None else amount_text(value, unit)
    except OverflowError:
        return f"{value} {unit}"


def _strip(finding: Finding) -> tuple[float, float, float] | None:
    low, high, told = finding.low, finding.high, finding.told
    if low is None or high is None or not isinstance(told, int | float):
        return None
    try:
        return strip(low, high, told)
    except OverflowError:  # a number that no float can hold
        return None


@dataclass(frozen=True)
class Record:
    """The raw record of one experiment: what the tool printed and what happened.

    `file` is the evidence for download, `size` its length in bytes. `cases` are judged by it.
    """

    number: int
    evidence: Evidence
    file: str
    size: int
    output: Shown
    stderr: Shown
    log: Shown
    happened: Shown
    cases: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, number: int, evidence: Evidence, file: str, size: int) -> "Record":
        """Return evidence as the page shows it."""
        happened = msgspec.structs.replace(evidence.happened, log=[])
        return cls(
            number,
            evidence,
            file,
            size,
            Shown.of(evidence.printed.output),
            Shown.of(evidence.printed.stderr),
            Shown.of("\n".join(evidence.happened.log)),
            Shown.of(judgement.show(happened)),
        )


class Defined(NamedTuple):
    """A number as the tool's description defines it: kind, points (name and meaning), and what else it says by name."""

    kind: str
    text: str
    points: list[tuple[str, str, str]]
    facts: dict[str, str]

    @classmethod
    def of(cls, quantity: Quantity) -> "Defined":
        """Return the definition of a quantity as texts."""
        kind = KINDS.get(quantity.kind)
        ends = ((word, point) for word, point in (("from", quantity.start), ("to", quantity.end)) if point)
        facts = {
            "unit": quantity.unit,
            "resolution": quantity.resolution,
            "event": quantity.event,
            "bytes of": quantity.layer if "bytes" in getattr(kind, "fields", ()) else "",
            "direction": quantity.direction if "bytes" in getattr(kind, "fields", ()) else "",
            "RTT": "smoothed" if quantity.smoothed else "",
            "rows": ", ".join(f"{name} is {pattern}" for name, pattern in quantity.where.items()),
        }
        return cls(
            quantity.kind,
            kind.text if kind else "",
            [(word, point, POINTS.get(point, "")) for word, point in ends],
            {name: text for name, text in facts.items() if text},
        )


@dataclass(frozen=True)
class Told:
    """A judgement in the page of its tool: the findings that are not right, gravest first, and those that are."""

    judgement: Judgement
    run: str
    bad: list[Value]
    good: list[Value]
    record: Record

    @classmethod
    def of(cls, one: Judged, record: Record) -> "Told":
        """Return a judgement as the page shows it."""
        values = [Value.of(it) for it in sorted(one.judgement.findings, key=lambda it: SEVERITY.index(it.verdict))]
        bad, good = ([it for it in values if (it.finding.verdict == Verdict.RIGHT) is right] for right in (False, True))
        return cls(one.judgement, one.run.name, bad, good, record)

    @property
    def left_out(self) -> int:
        """Number of findings that the run did not keep."""
        return self.judgement.numbers - len(self.bad) - len(self.good) if self.judgement.numbers else 0
