"""Totals of several processors folded into rows, and the values of a row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.made.rtt import PEERS, TOTAL, total
from support.processes import ends

from lab.probes.rtt.measure import Kind, all_together, bucket_us, folded, quantile_us, slots_of
from lab.probes.rtt.text import as_dict

TIMES = st.lists(st.integers(0, 1 << 20), max_size=5)
ADDED = st.lists(st.tuples(TIMES, st.integers(0, 2), st.integers(0, 3), st.sampled_from(Kind)), max_size=12)


@given(ADDED)
def test_processors_are_folded(added):
    """R3: sum, count, minimum and maximum cover all values of a group, from all processors, and no others."""
    totals = np.concatenate([total(*one) for one in added]) if added else np.zeros(0, TOTAL)
    groups = {}
    for values, peer, _, kind in added:
        groups.setdefault((PEERS[peer], kind), []).extend(values)
    rows = {(row["raddr"].tobytes(), Kind(row["kind"])): row for row in folded(totals)}
    assert set(rows) == set(groups)
    for key, values in groups.items():
        expected = total(values)[0]
        for name in ("count", "sum_us", "min_us", "max_us"):
            assert rows[key][name] == expected[name]
        assert (rows[key]["slots"] == expected["slots"]).all()


def test_all_together():
    """Each kind has one row for all connections."""
    totals = np.concatenate([total([1, 2], 0), total([3], 1), total([9], 2, kind=Kind.SRTT)])
    rows = all_together(totals)
    assert [(Kind(row["kind"]), row["count"], row["sum_us"]) for row in rows] == [(Kind.SRTT, 1, 9), (Kind.RTT, 3, 6)]


def test_unclear_samples_have_no_extremes():
    """A processor with unclear samples only has no minimum, so the minimum of all is not 0."""
    (row,) = folded(np.concatenate([total([], unclear=2), total([7], cpu=1)]))
    assert (row["min_us"], row["max_us"], row["unclear"], row["count"]) == (7, 7, 2, 1)


@given(st.lists(st.integers(0, 1 << 20), min_size=1), st.sampled_from([0.5, 0.99]))
def test_a_quantile_lies_within_its_bounds(values, share):
    """The true quantile is within the printed bounds."""
    low, high = quantile_us(total(values)[0], share)
    assert low <= sorted(values)[max(1, -int(-share * len(values) // 1)) - 1] <= high


@pytest.mark.parametrize(
    ("slot", "unit_us", "expected"), [(0, 1, (0, 1)), (0, 1000, (0, 1999)), (1, 1000, (2000, 3999))]
)
def test_buckets_of_milliseconds(slot, unit_us, expected):
    """A bucket in milliseconds includes the fractions."""
    assert bucket_us(slot, unit_us) == expected


def test_as_dict():
    """Fields that differ within the group, and the statistics of an empty row, are None."""
    values = as_dict(total([5, 6, 900])[0])
    assert values["kind"] == "rtt"
    assert ends(values) == (None, None, "192.0.2.1", None)
    assert (values["count"], values["sum_us"], values["min_us"], values["max_us"]) == (3, 911, 5, 900)
    assert values["buckets"] == [
        {"low_us": 4, "high_us": 7, "count": 2},
        {"low_us": 512, "high_us": 1023, "count": 1},
    ]
    assert slots_of(values["buckets"])[2] == 2
    nothing = as_dict(total([], unclear=1)[0])
    assert (nothing["min_us"], nothing["p99_high_us"], nothing["buckets"]) == (None, None, [])
