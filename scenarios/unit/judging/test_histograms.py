"""Consistency of a histogram with the truth."""

import pytest

from lab.judging.happened import Held
from lab.judging.kinds.round_trips import Histogram, consistent
from lab.judging.quantity import Row
from lab.units import MS

# 2^11 us is 2.048 ms, 2^12 us is 4.096 ms: three values belong to one bucket, and one to that bucket or to the next.
HELD = [Held(2_100_000, 4_000_000, 3, 3), Held(3 * MS, 5 * MS, 1, 1)]


def histogram(number, mean_ns, slots):
    rows = [Row({"low": 1 << slot, "count": count}, "") for slot, count in slots.items()]
    return Histogram([*rows, Row({"number": number, "mean": mean_ns}, "")], "us")


@pytest.mark.parametrize("slots", [{11: 4}, {11: 3, 12: 1}])
def test_a_possible_histogram_is_consistent(slots):
    """Every value is in a bucket that its interval overlaps, and the mean agrees with the buckets."""
    assert consistent(histogram(4, 3 * MS, slots), HELD)


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
    assert not consistent(histogram(number, mean_ns, slots), HELD)
