"""How much the demo's client and server can do, alone and under all probes at once: `python -m lab.bench.load`, as root.

What is measured with and without the probes takes turns, so that a machine that changes its pace does so for both.
"""

from collections.abc import Callable
from statistics import median
from typing import NamedTuple

from tabulate import tabulate

from lab import probes
from lab.bench import turns
from lab.demo.conversation import Conversation
from lab.demo.process import converse
from lab.recorder import record
from lab.timeline import Connection
from lab.topology import Topology, topology
from lab.units import SECOND

TURNS = 5
_MEGABYTES = 50


class Load(NamedTuple):
    """A kind of load: what is done, how often and how many at a time, and what is counted of it in `unit`."""

    what: str
    unit: str
    conversation: Conversation
    connections: int
    concurrency: int
    amount: Callable[[list[Connection]], float]


LOADS = (
    Load("connections", "1/s", Conversation(), 4000, 4, len),
    Load("requests on 2 connections", "1/s", Conversation(exchanges=4000), 2, 2, lambda them: 4000 * len(them)),
    Load(
        f"{_MEGABYTES} MB to the server",
        "Gbit/s",
        Conversation(size_bits=_MEGABYTES * 8_000_000, reply_bits=8),
        1,
        1,
        lambda them: _MEGABYTES * 8e-3 * len(them),
    ),
    Load(
        f"{_MEGABYTES} MB each way, in turn",
        "Gbit/s",
        Conversation(size_bits=_MEGABYTES * 8_000_000),
        1,
        1,
        lambda them: 2 * _MEGABYTES * 8e-3 * len(them),
    ),
)


class Row(NamedTuple):
    """Medians of one load's rates, without probes and with all of them, and of the ratios of each turn."""

    what: str
    unit: str
    alone: float
    probed: float
    ratio: float
    lost: int  # events, of all probes in all turns
    withheld: int  # by the kernel: lab/audit.py


def main() -> None:
    """Measure everything and print a table."""
    rows = [measured(load) for load in LOADS]
    print(
        tabulate(
            rows, headers=["load", "unit", "alone", "all probes", "ratio", "events lost", "withheld"], floatfmt=",.2f"
        )
    )


def measured(load: Load) -> Row:
    """Measure one load, `TURNS` times without and with the probes."""
    lost = withheld = 0

    def turn(probed: bool) -> float:  # noqa: FBT001 (one of the subjects that take turns)
        nonlocal lost, withheld
        # A network of its own each time: a client that has used most of its ports needs ever longer to find a free one.
        with topology() as net:
            if not probed:
                return rate(net, load)
            with record(*probes.every(), devices=net.devices, lossy=True) as recorder:
                reached = rate(net, load)
        lost += sum(recorder.recording.lost.values())
        withheld += sum(recorder.recording.withheld.values())
        return reached

    rates = turns.in_turns((False, True), TURNS, turn)
    ratio = median(turns.ratios(rates[True], rates[False]))
    return Row(load.what, load.unit, median(rates[False]), median(rates[True]), ratio, lost, withheld)


def rate(net: Topology, load: Load) -> float:
    """Apply a load once; returns its amount for each second from the first call of the client to its last."""
    net.server.sysctl("core/somaxconn", load.connections)
    with converse(net, load.conversation, connections=load.connections, concurrency=load.concurrency) as demo:
        pass
    net.quiesce()
    calls = [call for connection in demo.connections for call in connection.client.calls]
    took_ns = max(call.exit_ns for call in calls) - min(call.enter_ns for call in calls)
    return load.amount(demo.connections) * SECOND / took_ns


if __name__ == "__main__":
    main()
