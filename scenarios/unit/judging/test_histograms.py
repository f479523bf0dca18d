"""Consistency of a histogram with the truth."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.judging.happened import Happened, Held
from lab.judging.kinds.round_trips import Histogram, consistent, of_histograms
from lab.judging.quantity import Quantity, Row, Told
from lab.log2_histogram import bounds, slot_of
from lab.units import MS, NS_OF_UNIT

# 2^11 us is 2.048 ms, 2^12 us is 4.096 ms: three values belong to one bucket, and one to that bucket or to the next.
HELD = [Held(2_100_000, 4_000_000, 3, 3), Held(3 * MS, 5 * MS, 1, 1)]


def histogram(number, mean_ns, slots):
    rows = [Row({"low": 1 << slot, "count": count}, "") for slot, count in slots.items()]
    return Histogram([*rows, Row({"number": number, "mean": mean_ns}, "")], "us")


NUMBER, SUM, MEAN = {"number": 4}, {"sum": 12 * MS}, {"mean": 3 * MS}


@pytest.mark.parametrize(
    ("rows", "number", "mean_ns"),
    [
        ([NUMBER | SUM], 4, 3 * MS),
        ([NUMBER, SUM], 4, 3 * MS),
        ([SUM, NUMBER], 4, 3 * MS),
        ([MEAN, NUMBER], 4, 3 * MS),
        ([SUM], 0, None),
        ([{"number": 0}, SUM], 0, None),
        ([{"low": 2, "count": 3}, {"low": 3, "count": 1}, {"low": 4, "count": 0}, {"low": 9}], 4, None),
    ],
)
def test_what_rows_say_of_all_values(rows, number, mean_ns):
    """Their number and mean, in whatever order: the mean may be told as a sum, the number by the buckets."""
    found = Histogram([Row(row, "") for row in rows], "us")
    assert (found.number, found.mean_ns) == (number, mean_ns)
    assert found.slots == ({1: 4} if "low" in rows[0] else {})


@given(
    st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**8), st.integers(0, 10**8)), min_size=1, max_size=8),
    st.sampled_from(["ns", "us", "ms", "s"]),
)
def test_a_true_histogram_in_any_unit_is_consistent(values, unit):
    """Its buckets are powers of two of its unit: what fell into each is possible, and a value too many is not."""
    unit_ns = NS_OF_UNIT[unit]
    held = [Held(ns - min(ns, below), ns + above, 1, 1) for ns, below, above in values]
    cut = [ns // 1000 * 1000 // unit_ns for ns, *_ in values]
    slots = Counter(slot_of(value) for value in cut)
    rows = [Row({"low": bounds(slot)[0], "count": count}, "") for slot, count in slots.items()]
    rows.append(Row({"number": len(cut), "sum": sum(cut) * unit_ns}, ""))
    assert consistent(Histogram(rows, unit), held)
    assert not consistent(Histogram([*rows, Row({"low": bounds(max(slots))[0], "count": 1}, "")], unit), held)
    far = bounds(slot_of(max(it.high_ns for it in held) // unit_ns) + 1)[0]
    moved = [
        Row({"low": far, "count": 1}, ""),
        *(
            Row(row.fields | {"count": slots[slot] - 1}, "")
            for row, slot in zip(rows, slots, strict=False)
            if slot == min(slots)
        ),
    ]
    others = [row for row, slot in zip(rows, slots, strict=False) if slot != min(slots)]
    assert not consistent(Histogram([*moved, *others], unit), held)


def test_the_histogram_of_each_peer():
    """Rows are of the peer that they name. That of the server is judged, and its mean."""
    held = [Held(2_100_000, 4_000_000, 3, 3), Held(3 * MS, 5 * MS, 1, 1)]
    happened = Happened("rtt", 80, server=["192.0.2.2"], rtt=held)
    quantity = Quantity("rtt-histogram", unit="us")

    def verdicts(mean_ns, *slots, peer="192.0.2.2"):
        rows = [Row({"raddr": peer, "low": 1 << slot, "count": count}, "") for slot, count in slots]
        rows += [
            Row({"raddr": peer, "mean": mean_ns, "number": 4}, ""),
            Row({"raddr": "192.0.2.9", "low": 1, "count": 9}, ""),
        ]
        return {it.quantity: str(it.verdict) for it in of_histograms(quantity, Told(rows, 0), happened)}

    assert verdicts(3 * MS, (11, 4)) == {"histogram of RTTs": "right", "mean RTT": "right"}
    assert verdicts(3 * MS, (11, 3)) == {"histogram of RTTs": "wrong", "mean RTT": "right"}
    assert verdicts(5 * MS + 1001, (11, 4)) == {"histogram of RTTs": "wrong", "mean RTT": "wrong"}
    assert verdicts(2_100_000 - 1001, (11, 4))["mean RTT"] == "wrong"
    assert verdicts(3 * MS, (11, 4), peer="192.0.2.3") == {"histogram of RTTs": "missing"}
    smoothed = Quantity("rtt-histogram", unit="us", smoothed=True)
    assert not list(of_histograms(smoothed, Told([], 0), happened))


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
