"""Metrics of `lab drops`: packets and bytes, by reason."""

import argparse
from operator import itemgetter

from lab.live.metrics import Counter, Family, fields
from lab.probes.drops.reasons import reason_of


def families(_: argparse.Namespace) -> list[Family]:
    """Return the metrics."""
    reason = {"reason": fields(("reason", "full"), reason_of)}
    return [
        Counter("tcp_dropped_packets", "TCP packets that the kernel gave up", reason),
        Counter("tcp_dropped_bytes", "Data bytes of TCP packets that the kernel gave up", reason, itemgetter("size")),
    ]
