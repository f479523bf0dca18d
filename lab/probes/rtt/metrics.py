"""Metrics of `lab rtt`: histograms in the buckets that the kernel program counts in."""

import argparse

import numpy as np
import numpy.typing as npt

from lab.arrays import Rows
from lab.live.metrics import Counter, Family, Histogram, Label, field
from lab.log2_histogram import SLOTS
from lab.probes.rtt.measure import bucket_us
from lab.tcp import address_text

_SHORTEST_US, _LONGEST_US = 10, 100_000_000  # the bounds between these are exported


def families(args: argparse.Namespace) -> list[Family]:
    """Return the metrics, with the labels that the options group connections by."""
    labels: dict[str, Label] = {}
    for side, name, grouped in (("l", "local", args.laddr_hist), ("r", "remote", args.raddr_hist)):
        if grouped or args.by_connection:
            labels[f"{name}_address"] = field(f"{side}addr", _address)
        if args.by_connection:
            labels[f"{name}_port"] = field(f"{side}port", str)
    unit_us = 1000 if args.ms else 1
    if not args.raw:
        return [Slots("tcp_smoothed_rtt_seconds", "Smoothed RTT, once for each received segment", labels, unit_us)]
    return [
        Slots("tcp_rtt_seconds", "RTT samples", labels, unit_us),
        Counter("tcp_rtt_unclear_samples", "RTT samples whose value is unknown", labels, lambda rows: rows["unclear"]),
        Counter(
            "tcp_rtt_distorted_samples",
            "RTT samples of handshakes that are not of the network",
            labels,
            lambda rows: rows["distorted"],
        ),
    ]


class Slots(Histogram):
    """A histogram whose rows are counts by powers of two. Its bounds are the longest times of slots, in whole microseconds."""

    def __init__(self, name: str, text: str, labels: dict[str, Label], unit_us: int) -> None:
        ends_us = np.array([bucket_us(slot, unit_us)[1] for slot in range(SLOTS)])
        bounds_us = ends_us[(ends_us >= _SHORTEST_US) & (ends_us <= _LONGEST_US)]
        super().__init__(name, text, labels, lambda rows: rows["sum_us"], (bounds_us * 1000).tolist())
        self._buckets: npt.NDArray[np.intp] = np.searchsorted(bounds_us, ends_us)

    def add(self, rows: Rows) -> None:
        """Count rows."""
        if (chosen := rows["count"] > 0).any():
            numbers = self._rows_of_sums(rows, chosen)
            np.add.at(self._sums, (numbers[:, None], self._buckets), rows["slots"][chosen])
            np.add.at(self._sums[:, -1], numbers, rows["sum_us"][chosen] * 1000)


def _address(octets: npt.NDArray[np.uint8]) -> str:
    return address_text(octets.tobytes())
