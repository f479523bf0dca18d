"""Consistency of a histogram with the truth, and parsing of a tool's own count of losses."""

import pytest

from lab.bench import cases
from lab.bench.cases.round_trips import Held, consistent
from lab.bench.tools import RttRow
from lab.units import MS

# 2^11 us is 2.048 ms, 2^12 us is 4.096 ms: three values belong to one bucket, and one to that bucket or to the next.
HELD = [Held(2_100_000, 4_000_000, 3, 3), Held(3 * MS, 5 * MS, 1, 1)]


@pytest.mark.parametrize("slots", [{11: 4}, {11: 3, 12: 1}])
def test_a_possible_histogram_is_consistent(slots):
    """Every value is in a bucket that its interval overlaps, and the mean agrees with the buckets."""
    assert consistent(RttRow("a", 4, 3 * MS, slots), HELD)


@pytest.mark.parametrize(
    ("number", "mean_ns", "slots"),
    [
        (3, 3 * MS, {11: 3}),
        (5, 3 * MS, {11: 5}),
        (4, 3 * MS, {11: 3}),
        (4, 3 * MS, {11: 2, 12: 2}),
        (4, 3 * MS, {11: 3, 13: 1}),
        (4, 3 * MS, {10: 1, 11: 3}),
        (4, 2 * MS, {11: 4}),
        (4, 4_200_000, {11: 4}),
    ],
    ids=[
        "one lost",
        "one invented",
        "another number",
        "over an edge",
        "too high",
        "too low",
        "mean too low",
        "mean too high",
    ],
)
def test_an_impossible_histogram_is_not_consistent(number, mean_ns, slots):
    """A missing value, an extra one, one in a wrong bucket, and a mean outside the buckets are each detected."""
    assert not consistent(RttRow("a", number, mean_ns, slots), HELD)


@pytest.mark.parametrize(
    ("stderr", "number"),
    [
        ("lab: 12 events lost: the output is not complete\nlab: 1 events lost: the output is not complete", 13),
        ("lost 416 events on CPU #0\nlost 29 events on CPU #0", 445),
        ("Possibly lost 7 samples", 7),
        ("Lost 3 events", 3),
        ("132018 packets captured\n5 packets dropped by kernel\n0 packets dropped by interface", 5),
        ("2 packets dropped from lo", 2),
        ("listening on lo, link-type EN10MB\n100 packets received by filter\n0 packets dropped by kernel", 0),
    ],
)
def test_losses_are_parsed(stderr, number):
    """Each tool's own message about lost events or packets gives the number."""
    assert cases.lost(stderr) == number


def test_every_case_names_its_rows():
    """The cases of every module are found, and their docstrings name rows of the corpus."""
    found = cases.every()
    assert len(found) > 10
    rows = " ".join(case.__doc__ for case in found)
    assert all(f"{row}:" in rows or f"{row}," in rows for row in ("S1", "S5", "D1", "R3", "R4", "R5", "F3", "F4"))
