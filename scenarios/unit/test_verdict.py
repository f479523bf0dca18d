"""Verdicts: a value is inside its bracket or provably wrong."""

import json

import pytest

from lab.arrays import UNKNOWN
from lab.verdict import Bracket, Judge

JUDGE = Judge("a scenario", "states", "an attach point", lost=2)
BRACKET = Bracket(100, 200, 120)


def test_constructors_of_brackets():
    """Each constructor has its own best estimate."""
    assert Bracket.early(1, 4) == (1, 4, 1)
    assert Bracket.middle(1, 4) == (1, 4, 2)
    assert Bracket.late(1, 4) == (1, 4, 4)
    assert Bracket.exactly(3) == (3, 3, 3)
    assert Bracket.between(Bracket.early(1, 4), Bracket.late(10, 20)) == (6, 19, 12)
    assert Bracket.between(Bracket.early(1, 4), Bracket.late(2, 5)).low == 0


@pytest.mark.parametrize(("measured_ns", "passed"), [(99, False), (100, True), (150, True), (200, True), (201, False)])
def test_both_ends_belong_to_the_bracket(measured_ns, passed):
    """A time at either end is inside, a time one nanosecond beyond it is not."""
    assert JUDGE.duration("a flow", "a time", BRACKET, measured_ns).passed is passed


@pytest.mark.parametrize(("measured_ns", "passed"), [(89, False), (90, True), (210, True), (211, False)])
def test_a_rounded_value_may_be_outside_by_its_resolution(measured_ns, passed):
    """A value that the kernel rounds to 10 ns may be up to 10 ns outside."""
    assert JUDGE.duration("a flow", "a time", BRACKET, measured_ns, resolution_ns=10).passed is passed


def test_the_error_is_the_distance_from_the_best_estimate():
    """The error is negative for a smaller value, positive for a larger one, 0 for the best estimate."""
    errors = [JUDGE.duration("a flow", "a time", BRACKET, measured_ns).error for measured_ns in (110, 120, 205)]
    assert errors == [-10, 0, 85]


@pytest.mark.parametrize("resolution_ns", [0, 1000])
def test_an_unknown_time_is_never_inside(resolution_ns):
    """A probe that measured nothing does not pass, even if the bracket contains 0."""
    assert not JUDGE.duration("a flow", "a time", Bracket.early(0, 10**9), UNKNOWN, resolution_ns).passed


@pytest.mark.parametrize(("measured", "passed"), [(99, False), (100, True), (200, True), (201, False)])
def test_a_count_is_inside_or_wrong(measured, passed):
    """A count is judged like a time, both ends included. It has an error but no unit."""
    check = JUDGE.count("a flow", "packets", BRACKET, measured)
    assert (check.passed, check.unit, check.error) == (passed, "", measured - 120)


@pytest.mark.parametrize(("measured", "passed"), [(42, True), (43, False), (None, False), ("42", False)])
def test_an_exact_value_is_equal_or_wrong(measured, passed):
    """A value with an exactly known truth has no interval and no error."""
    check = JUDGE.equal("a flow", "owner", 42, measured)
    assert (check.passed, check.low, check.high, check.error) == (passed, 42, 42, None)


def test_unknown_can_be_the_truth():
    """If the truth is that a value is unknown, None passes and a number fails (S3)."""
    assert JUDGE.equal("a flow", "a time", None, None).passed
    assert not JUDGE.equal("a flow", "a time", None, 0).passed


def test_any_outcome_of_a_race_is_right_and_no_other():
    """Each possible value passes. The sentence of a failure lists all of them."""
    assert JUDGE.one_of("a flow", "path", ["A B", "A C"], "A C").passed
    wrong = JUDGE.one_of("a flow", "path", ["A B", "A C"], "A")
    assert not wrong.passed
    assert "the truth is A B or A C" in wrong.sentence()


def test_the_json_of_a_check_is_complete():
    """A row of the results has everything that is needed to judge the value again."""
    row = json.loads(JUDGE.duration("a → b", "a time", BRACKET, 201).to_json())
    assert row == {
        "scenario": "a scenario",
        "probe": "states",
        "attach_point": "an attach point",
        "subject": "a → b",
        "quantity": "a time",
        "unit": "ns",
        "low": 100,
        "high": 200,
        "measured": 201,
        "error": 81,
        "lost": 2,
        "verdict": "outside",
        "tolerance": None,
        "resolution": 0,
    }


def test_a_failure_is_one_sentence():
    """The sentence has the quantity, the subject, the probe, the value and the truth."""
    sentence = JUDGE.duration("a -> b", "time in SYN_SENT", BRACKET, 201).sentence()
    assert sentence == "time in SYN_SENT of a -> b: states reports 201 ns, the truth is between 100 and 200"


@pytest.mark.parametrize(
    ("measured", "tolerance", "verdict"), [(121, 1, "inside"), (122, 1, "far"), (201, 90, "outside")]
)
def test_an_error_that_gates(measured, tolerance, verdict):
    """With a tolerance, a value inside the bracket can be `far`; a value outside the bracket stays `outside`."""
    check = JUDGE.duration("a → b", "a time", BRACKET, measured).within(tolerance)
    assert (check.verdict, check.passed, check.tolerance) == (verdict, verdict == "inside", tolerance)
    assert ("from the best estimate" in check.sentence()) is (verdict == "far")
