"""A value is inside its bracket or provably wrong; there is nothing between."""

import json

import pytest

from lab.arrays import UNKNOWN
from lab.verdict import Bracket, Judge

JUDGE = Judge("a scenario", "states", "an attach point", lost=2)
BRACKET = Bracket(100, 200, 120)


@pytest.mark.parametrize(("measured_ns", "passed"), [(99, False), (100, True), (150, True), (200, True), (201, False)])
def test_both_ends_belong_to_the_bracket(measured_ns, passed):
    """A time at either end is consistent with the truth, one nanosecond beyond it is not."""
    assert JUDGE.duration("a flow", "a time", BRACKET, measured_ns).passed is passed


@pytest.mark.parametrize(("measured_ns", "passed"), [(89, False), (90, True), (210, True), (211, False)])
def test_a_rounded_value_stands_for_all_it_can_mean(measured_ns, passed):
    """What the kernel rounds to 10 ns may lie up to 10 ns outside, and not farther."""
    assert JUDGE.duration("a flow", "a time", BRACKET, measured_ns, resolution_ns=10).passed is passed


def test_the_error_is_the_distance_from_the_best_estimate():
    """Early is negative, late is positive, and the best estimate itself is no error."""
    errors = [JUDGE.duration("a flow", "a time", BRACKET, measured_ns).error for measured_ns in (110, 120, 205)]
    assert errors == [-10, 0, 85]


@pytest.mark.parametrize("resolution_ns", [0, 1000])
def test_an_unknown_time_is_never_inside(resolution_ns):
    """A probe that measured nothing has not measured something true, however wide the bracket."""
    assert not JUDGE.duration("a flow", "a time", Bracket(0, 10**9, 0), UNKNOWN, resolution_ns).passed


@pytest.mark.parametrize(("measured", "passed"), [(99, False), (100, True), (200, True), (201, False)])
def test_a_count_is_inside_or_wrong(measured, passed):
    """A number of things is judged as a time is, both ends included, and has an error but no unit."""
    check = JUDGE.count("a flow", "packets", BRACKET, measured)
    assert (check.passed, check.unit, check.error) == (passed, "", measured - 120)


@pytest.mark.parametrize(("measured", "passed"), [(42, True), (43, False), (None, False), ("42", False)])
def test_an_exact_value_is_equal_or_wrong(measured, passed):
    """A value known exactly has no bracket and no error."""
    check = JUDGE.equal("a flow", "owner", 42, measured)
    assert (check.passed, check.low, check.high, check.error) == (passed, 42, 42, None)


def test_unknown_can_be_the_truth():
    """Where nobody can know, saying so is right and a number is wrong (S3)."""
    assert JUDGE.equal("a flow", "a time", None, None).passed
    assert not JUDGE.equal("a flow", "a time", None, 0).passed


def test_any_outcome_of_a_race_is_right_and_no_other():
    """Of several possible values each is consistent with the truth; a failure names them all."""
    assert JUDGE.one_of("a flow", "path", ["A B", "A C"], "A C").passed
    wrong = JUDGE.one_of("a flow", "path", ["A B", "A C"], "A")
    assert not wrong.passed
    assert "the truth is A B or A C" in wrong.sentence()


def test_a_check_says_what_was_measured_where_and_by_whom():
    """A row of the results carries everything that is needed to judge it again."""
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
    }


def test_a_failure_is_one_sentence():
    """What was measured, of what, by which probe, and what is true."""
    sentence = JUDGE.duration("a -> b", "time in SYN_SENT", BRACKET, 201).sentence()
    assert sentence == "time in SYN_SENT of a -> b: states says 201 ns, the truth is between 100 and 200"


@pytest.mark.parametrize(
    ("measured", "tolerance", "verdict"), [(121, 1, "inside"), (122, 1, "far"), (201, 90, "outside")]
)
def test_an_error_that_gates(measured, tolerance, verdict):
    """Where time is exact, a value inside the bracket may be too far from the best estimate; one outside stays provably wrong."""
    check = JUDGE.duration("a → b", "a time", BRACKET, measured).within(tolerance)
    assert (check.verdict, check.passed, check.tolerance) == (verdict, verdict == "inside", tolerance)
    assert ("from the best estimate" in check.sentence()) is (verdict == "far")
