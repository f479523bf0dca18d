"""Metrics of `lab duration`: connections, handshakes and repeated SYNs."""

import argparse
from operator import itemgetter

from lab.live.metrics import Counter, Family, Histogram, decades, field
from lab.tcp import Ended
from lab.units import MS, SECOND


def families(_: argparse.Namespace) -> list[Family]:
    """Return the metrics."""
    ended = {"ended": field("ended", lambda how: Ended(how).name.lower())}
    bounds_ns = decades(MS // 10, 1000 * SECOND)
    return [
        Counter("tcp_connections_ended", "Connections that ended, and attempts that were refused or timed out", ended),
        Histogram(
            "tcp_connection_duration_seconds",
            "Time from the first SYN to the first FIN or RST, where it is known",
            ended,
            itemgetter("duration_ns"),
            bounds_ns,
        ),
        Histogram(
            "tcp_connection_handshake_seconds",
            "Time from the first SYN to the first SYN-ACK, where it is known",
            {},
            itemgetter("synack_ns"),
            bounds_ns,
        ),
        Counter(
            "tcp_connection_syn_retransmissions", "SYNs that clients repeated", {}, itemgetter("syn_retransmissions")
        ),
    ]
