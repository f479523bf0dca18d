"""Metrics of `lab states`: the time in each state, and the transitions."""

import argparse
from operator import itemgetter

from lab.live.metrics import Counter, Family, Histogram, decades, field
from lab.tcp import State
from lab.units import MS, SECOND


def families(_: argparse.Namespace) -> list[Family]:
    """Return the metrics."""
    old, new = (field(name, lambda state: State(state).name) for name in ("oldstate", "newstate"))
    return [
        Histogram(
            "tcp_state_duration_seconds",
            "Time that sockets spent in a state, counted when they leave it",
            {"state": old},
            itemgetter("duration_ns"),
            decades(MS // 10, 1000 * SECOND),
        ),
        Counter("tcp_state_transitions", "Changes of state", {"oldstate": old, "newstate": new}),
    ]
