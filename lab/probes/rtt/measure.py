"""From the totals that the kernel adds up to one row for each group of connections: pure functions over arrays.

Fields of a row:

- `kind`: smoothed RTT or single samples (`Kind`).
- `netns`, `laddr`, `lport`, `raddr`, `rport`: the group; zero if the group has several values of the field.
- `count`, `sum_us`, `min_us`, `max_us`: of the values, in whole microseconds, the kernel's own resolution.
- `unclear`: number of samples whose value is unknown.
- `distorted`: number of handshake samples that are not of the network, and not in `count`.
- `slots`: number of values by powers of two of the unit (lab/log2_histogram.py).
"""

from collections.abc import Iterable
from enum import IntEnum

import numpy as np

from lab.arrays import Events, Rows
from lab.log2_histogram import SLOTS, bounds, quantile_slot
from lab.probes.rtt.rows import Bucket

_GROUP = ("laddr", "raddr", "lport", "rport", "netns", "kind")
_SUMS = ("count", "sum_us", "unclear", "distorted", "slots")
QUANTILES = {"p50": 0.5, "p99": 0.99}


class Kind(IntEnum):
    """Kind of the values: `enum kind` in bpf/rtt.c."""

    SRTT = 0
    RTT = 1


def of_hosts(totals: Events, inodes: tuple[int, int]) -> Events:
    """Return the totals of two network namespaces, given by their inode numbers."""
    return totals[np.isin(totals["netns"], inodes)]


def folded(totals: Events) -> Rows:
    """Return one row for each group: the sum of all processors, sorted by addresses, ports, namespace and kind."""
    if not len(totals):
        return totals
    parts = [np.ascontiguousarray(totals[name]).view("u1").reshape(len(totals), -1) for name in _GROUP]
    keys = np.ascontiguousarray(np.concatenate(parts, axis=1))
    _, first, group = np.unique(keys.view(f"V{keys.shape[1]}")[:, 0], return_index=True, return_inverse=True)
    rows = np.zeros(len(first), totals.dtype)
    for name in _GROUP:
        rows[name] = totals[name][first]
    for name in _SUMS:
        np.add.at(rows[name], group, totals[name])
    some = totals["count"] > 0  # a total of unclear samples only has no minimum and no maximum
    rows["min_us"] = np.iinfo("u4").max
    np.minimum.at(rows["min_us"], group[some], totals["min_us"][some])
    np.maximum.at(rows["max_us"], group[some], totals["max_us"][some])
    rows["min_us"][rows["count"] == 0] = 0
    return rows


def all_together(totals: Events) -> Rows:
    """Return one row for each kind that occurs, with all connections in one group."""
    ungrouped = totals.copy()
    for name in _GROUP[:-1]:
        ungrouped[name] = 0
    return folded(ungrouped)


def quantile_us(row: np.void, share: float, unit_us: int = 1) -> tuple[int, int]:
    """Return the bounds of a quantile: those of its bucket, narrowed to the minimum and maximum of all values."""
    low, high = bucket_us(quantile_slot(row["slots"].tolist(), share), unit_us)
    return max(low, int(row["min_us"])), min(high, int(row["max_us"]))


def bucket_us(slot: int, unit_us: int = 1) -> tuple[int, int]:
    """Return the shortest and the longest time of a slot of the histogram, in whole microseconds."""
    low, high = bounds(slot)
    return low * unit_us, (high + 1) * unit_us - 1


def slots_of(buckets: Iterable[Bucket], unit_us: int = 1) -> list[int]:
    """Return the slots of buckets, including the empty ones."""
    counts = {bucket["low_us"]: bucket["count"] for bucket in buckets}
    return [counts.get(bucket_us(slot, unit_us)[0], 0) for slot in range(SLOTS)]
