"""Metrics of `lab retransmits`: segments and bytes that were sent again, and attempts that failed."""

import argparse
import errno

import numpy as np

from lab.arrays import Integers, Rows
from lab.live.metrics import Counter, Family, Label, field
from lab.packet import FIN, SYN
from lab.probes.retransmits.measure import kind_of
from lab.tcp import State

_WHAT = [("flags", "u1"), ("state", "u1"), ("size", "?")]


def families(_: argparse.Namespace) -> list[Family]:
    """Return the metrics."""
    labels = {"what": Label(_what, kind_of), "state": field("state", _state)}
    return [
        Counter(
            "tcp_retransmitted_segments", "Segments that were sent again", labels, lambda rows: _sent(rows, "segments")
        ),
        Counter(
            "tcp_retransmitted_bytes", "Bytes of data that were sent again", labels, lambda rows: _sent(rows, "size")
        ),
        Counter(
            "tcp_failed_retransmissions",
            "Attempts that failed within TCP or IP (Linux 6.17 and later)",
            {"error": field("error", lambda number: errno.errorcode.get(number, str(number)))},
            lambda rows: rows["error"] > 0,
        ),
    ]


def _sent(rows: Rows, field: str) -> Integers:
    return np.where(rows["error"] > 0, 0, rows[field])


def _what(rows: Rows) -> Rows:
    """Return the parts of each row that `kind_of` depends on."""
    parts = np.zeros(len(rows), _WHAT)
    parts["flags"], parts["state"], parts["size"] = rows["flags"] & (SYN | FIN), rows["state"], rows["size"] > 0
    return parts


def _state(number: int) -> str:
    """Return the name of a state; that of a connection request is the one that its socket will have."""
    return State.SYN_RECV.name if number == State.NEW_SYN_RECV else State(number).name
