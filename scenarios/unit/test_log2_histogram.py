"""Buckets by powers of two: their bounds, their quantiles and their picture."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.log2_histogram import SLOTS, STARS, bounds, picture, quantile_slot, slot_of

COUNTS = st.lists(st.integers(0, 10**6), min_size=SLOTS, max_size=SLOTS)


@pytest.mark.parametrize(
    ("slot", "expected"), [(0, (0, 1)), (1, (2, 3)), (2, (4, 7)), (3, (8, 15)), (31, (1 << 31, (1 << 32) - 1))]
)
def test_bounds(slot, expected):
    """R4: the buckets that users of such tools know."""
    assert bounds(slot) == expected


def test_buckets_follow_each_other():
    """R4: each bucket begins where the one before ends."""
    for slot in range(1, SLOTS):
        assert bounds(slot)[0] == bounds(slot - 1)[1] + 1


@given(st.integers(0, (1 << SLOTS) - 1))
def test_a_value_is_within_its_bucket(value):
    """R4: no value is outside the bounds of its own bucket."""
    low, high = bounds(slot_of(value))
    assert low <= value <= high


@given(st.lists(st.integers(0, 10**6), min_size=1), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_is_in_its_bucket(values, share):
    """The value at the quantile's rank is in the bucket that is named."""
    counts = [0] * SLOTS
    for value in values:
        counts[slot_of(value)] += 1
    rank = max(1, -int(-share * len(values) // 1))
    assert slot_of(sorted(values)[rank - 1]) == quantile_slot(counts, share)


def test_of_nothing_there_is_no_quantile():
    """An empty histogram has no median."""
    with pytest.raises(ValueError, match="no quantile"):
        quantile_slot([0] * SLOTS, 0.5)


def test_picture():
    """Up to the last bucket that holds something, the longest bar with 40 stars and the others in proportion."""
    counts = [0] * SLOTS
    counts[1], counts[3] = 4, 1
    assert list(picture(counts, "usecs")) == [
        "     usecs               : count     distribution",
        "         0 -> 1          : 0        |                                        |",
        "         2 -> 3          : 4        |****************************************|",
        "         4 -> 7          : 0        |                                        |",
        "         8 -> 15         : 1        |**********                              |",
    ]


def test_nothing_has_no_picture():
    """No values, no lines."""
    assert list(picture([0] * SLOTS, "usecs")) == []


@given(COUNTS)
def test_every_count_is_in_the_picture(counts):
    """No count is left out, and no bar is longer than it may be."""
    lines = list(picture(counts, "usecs"))[1:]
    assert sum(int(line.split()[4]) for line in lines) == sum(counts)
    assert max((line.count("*") for line in lines), default=STARS) == STARS
