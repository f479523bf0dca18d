"""Findings: a value beside its interval, the distance, and the sentence that says so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.judging.finding import SEVERITY, Finding, Verdict, absent, matched, timed, value, worst
from lab.judging.points import Point
from lab.judging.quantity import Quantity, Row
from lab.units import MS, SECOND

NUMBERS = st.integers(0, 1000)


@given(NUMBERS, NUMBERS, st.integers(-100, 1200), st.integers(0, 50))
def test_a_value_is_right_inside_of_its_interval(low, width, told, resolution):
    """Outside by no more than the resolution, too. The distance is how far it is from the nearest right value."""
    finding = value("time", "it", (low, low + width, low), told, resolution=resolution)
    right = range(low - resolution, low + width + resolution + 1)
    assert finding.verdict == (Verdict.RIGHT if told in right else Verdict.WRONG)
    assert finding.distance == min(abs(told - one) for one in right)
    assert (finding.low, finding.high, finding.told) == (low, low + width, told)
    assert finding.off == abs(told - low)


def test_an_unknown_value():
    """It has an interval and no distance."""
    finding = value("time", "it", (1, 3, 2), None, rows=["a row"])
    assert (finding.verdict, finding.told, finding.distance, finding.off) == (Verdict.UNKNOWN, None, 0, None)
    assert (finding.low, finding.high, finding.best, finding.rows) == (1, 3, 2, ["a row"])


@pytest.mark.parametrize(("lost", "verdict"), [(0, Verdict.MISSING), (1, Verdict.LOST)])
def test_an_absent_value(lost, verdict):
    """It is lost if the tool says that it lost some; the truth may be no interval."""
    finding = absent("time", "it", (1, 3, 2), lost=lost)
    assert (finding.verdict, finding.low, finding.high, finding.best) == (verdict, 1, 3, 2)
    assert absent("a row", "it", None, lost=lost, truth="one").sentence().endswith("tells nothing, the truth is one")


@pytest.mark.parametrize(
    ("finding", "end"),
    [
        (value("packets", "it", (3, 3, 3), 3, unit=""), "the tool tells 3, the truth is 3"),
        (value("packets", "it", (3, 3, 3), 5, unit=""), "the tool tells 5, the truth is 3, 2 off"),
        (value("packets", "it", (3, 4, 3), 2, unit=""), "the tool tells 2, the truth is between 3 and 4, 1 off"),
        (absent("packets", "it", (3, 3, 3), lost=0, unit=""), "the tool tells nothing, the truth is 3"),
        (matched("order", "it", "A B", "B A", right=False), "the tool tells B A, the truth is A B"),
        (Finding("x", "it", Verdict.UNKNOWN), "the tool tells nothing, the truth is not known"),
        (Finding("x", "it", Verdict.UNKNOWN, low=3), "the tool tells nothing, the truth is not known"),
        (Finding("x", "it", Verdict.UNKNOWN, high=3), "the tool tells nothing, the truth is not known"),
    ],
)
def test_the_sentence(finding, end):
    """It has the value, the truth, and the distance if there is one."""
    assert finding.sentence() == f"{finding.quantity} of it: {end}"


def test_a_time_of_day_has_microseconds():
    """It is shown in seconds; durations have their own unit."""
    assert "tells 100.000001 s" in value("time", "it", (0, 1, 0), 100 * SECOND + 1000).sentence()
    assert "tells 99.999 s" in value("time", "it", (0, 1, 0), 100 * SECOND - MS).sentence()
    assert "tells 200" in value("packets", "it", (0, 1, 0), 200 * SECOND, unit="").sentence()
    assert " s" not in value("packets", "it", (0, 1, 0), 200 * SECOND, unit="").sentence()


CLOCKS = {"monotonic": 50, "wall": 7000}


@pytest.mark.parametrize(
    ("clock", "told", "verdict"),
    [
        ("monotonic", 150, Verdict.RIGHT),
        ("monotonic", 161, Verdict.RIGHT),
        ("monotonic", 162, Verdict.WRONG),
        ("monotonic", 148, Verdict.WRONG),
        ("wall", 7100 - 1001, Verdict.RIGHT),
        ("wall", 7110 + 1001, Verdict.RIGHT),
        ("wall", 7110 + 1002, Verdict.WRONG),
    ],
)
def test_the_time_of_a_row(clock, told, verdict):
    """It is judged on its own clock. The offset of a clock that is set is known to a microsecond."""
    quantity = Quantity("duration", unit="ns", clock=clock)
    (finding,) = timed(quantity, Row({"time": told}, "the row"), "it", Point(100, 110, "the log"), CLOCKS)
    assert (finding.verdict, finding.rows, finding.known_by) == (verdict, ["the row"], "the log")
    assert finding.best == 105 + CLOCKS[clock]


@pytest.mark.parametrize(
    ("clock", "fields", "point"),
    [("wall", {}, Point(1, 2, "")), ("boot", {"time": 1}, Point(1, 2, "")), ("wall", {"time": 1}, None)],
    ids=["no time", "a clock of unknown offset", "a point that was not reached"],
)
def test_the_time_of_a_row_that_cannot_be_judged(clock, fields, point):
    """There is no finding."""
    assert not list(timed(Quantity("duration", unit="ns", clock=clock), Row(fields, ""), "it", point, CLOCKS))


@given(st.lists(st.sampled_from(SEVERITY)))
def test_the_gravest_verdict(verdicts):
    """No other one is graver, whatever their order."""
    found = worst(verdicts)
    assert all(SEVERITY.index(found) <= SEVERITY.index(one) for one in verdicts)
    assert found in (verdicts or [Verdict.NOT_ASKED])
