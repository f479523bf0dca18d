"""Buckets by powers of two: bounds, quantiles and picture."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.log2_histogram import SLOTS, STARS, bounds, picture, quantile_slot, slot_of

COUNTS = st.lists(st.integers(0, 10**6), min_size=SLOTS, max_size=SLOTS)


@pytest.mark.parametrize(
    ("slot", "expected"), [(0, (0, 1)), (1, (2, 3)), (2, (4, 7)), (3, (8, 15)), (31, (1 << 31, (1 << 32) - 1))]
)
def test_bounds(slot, expected):
    """R4: the buckets are the common ones of log2 histograms."""
    assert bounds(slot) == expected


def test_buckets_follow_each_other():
    """R4: each bucket begins right behind the one before."""
    for slot in range(1, SLOTS):
        assert bounds(slot)[0] == bounds(slot - 1)[1] + 1


@given(st.integers(0, (1 << SLOTS) - 1))
def test_a_value_is_within_its_bucket(value):
    """R4: no value is outside the bounds of its own bucket."""
    low, high = bounds(slot_of(value))
    assert low <= value <= high


@given(st.lists(st.integers(0, 10**6), min_size=1), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_is_in_its_bucket(values, share):
    """The value at the quantile's rank is in the returned bucket."""
    counts = [0] * SLOTS
    for value in values:
        counts[slot_of(value)] += 1
    rank = max(1, -int(-share * len(values) // 1))
    assert slot_of(sorted(values)[rank - 1]) == quantile_slot(counts, share)


def test_an_empty_histogram_has_no_quantile():
    """An empty histogram has no median."""
    with pytest.raises(ValueError, match="no quantile"):
        quantile_slot([0] * SLOTS, 0.5)


def test_picture():
    """The picture ends at the last bucket with a value. The longest bar has 40 stars, the others are in proportion."""
    counts = [0] * SLOTS
    counts[1], counts[3] = 4, 1
    assert list(picture(counts, "usecs")) == [
        "     usecs               : count     distribution",
        "         0 -> 1          : 0        |                                        |",
        "         2 -> 3          : 4        |****************************************|",
        "         4 -> 7          : 0        |                                        |",
        "         8 -> 15         : 1        |**********                              |",
    ]


def test_an_empty_histogram_has_no_picture():
    """Without values there are no lines."""
    assert list(picture([0] * SLOTS, "usecs")) == []


@given(COUNTS)
def test_every_count_is_in_the_picture(counts):
    """Every count is printed, and no bar is longer than 40 stars."""
    lines = list(picture(counts, "usecs"))[1:]
    assert sum(int(line.split()[4]) for line in lines) == sum(counts)
    assert max((line.count("*") for line in lines), default=STARS) == STARS
