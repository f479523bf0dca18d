"""Metrics of `lab analyse`: the time to open a connection, the time of each call, and the number of steps."""

import argparse
import errno

import numpy as np

from lab.arrays import UNKNOWN, Integers, Mask, Rows
from lab.live.metrics import Counter, Family, Histogram, Label, decades, field
from lab.probes.analyse.measure import Kind, Role, latency_ns, points
from lab.tcp import State
from lab.units import MS, SECOND

_BOUNDS_NS = decades(MS // 1000, 10 * SECOND)


def families(_: argparse.Namespace) -> list[Family]:
    """Return the metrics."""
    function = field("point", points().__getitem__)
    return [
        Histogram(
            "tcp_connect_seconds",
            "Time to ESTABLISHED, as in the column TCP_CONNECT_TIME(us)",
            {"role": field("role", lambda role: Role(role).name.lower())},
            lambda rows: np.where(_opened(rows), latency_ns(rows), UNKNOWN),
            _BOUNDS_NS,
        ),
        Histogram(
            "tcp_call_seconds",
            "Time from the entry of a system call to its return, or to the work of TCP for it",
            {"func": function, "error": Label(_error, _error_text)},
            lambda rows: np.where(_opened(rows), UNKNOWN, latency_ns(rows)),
            _BOUNDS_NS,
        ),
        Counter(
            "tcp_steps",
            "Steps of connections",
            {"step": field("kind", lambda kind: Kind(kind).name.lower()), "func": function},
        ),
    ]


def _opened(rows: Rows) -> Mask:
    return np.asarray((rows["kind"] == Kind.CHANGED) & (rows["state"] == State.ESTABLISHED))


def _error(rows: Rows) -> Integers:
    """Return the error number of each failed call, 0 for the other rows."""
    return np.where((rows["returns"] > 0) & (rows["result"] < 0), -rows["result"], 0)


def _error_text(number: int) -> str:
    return errno.errorcode.get(number, str(number)) if number else ""
