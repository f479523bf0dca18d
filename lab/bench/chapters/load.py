"""Throughput of the demo's client and server, alone and with all probes attached.

Connections, requests and bulk are measured alternately without the probes and with all of them. `with all probes` is
the ratio within a repetition. `lost` counts events without room in a buffer, `withheld` events for which the kernel did
not run a program (lab/ebpf/audit.py).
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from lab import probes
from lab.bench import interleave
from lab.bench.context import Bench
from lab.network.topology import Topology, topology
from lab.recording.recorder import record
from lab.results.measurement import Goal, Measurement
from lab.timeline import Connection
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse
from lab.units import SECOND

FIGURE = "load"
_DEMO = "lab (demo)"
_PROBES = "lab (all probes)"
_SUSTAINED = Goal(least=True, value=2000)
_NONE = Goal(least=False, value=0)


class Load(NamedTuple):
    """A kind of load. `amount` maps the connections to the amount transferred, whose rate is in `unit`."""

    what: str
    unit: str
    conversation: Conversation
    connections: int
    concurrency: int
    amount: Callable[[list[Connection]], float]
    goal: Goal | None = None


def measure(bench: Bench) -> Iterator[Measurement]:
    """Apply each load without and with the probes."""
    for load in _loads(bench.times(1, 5)):
        yield from _measured(load, bench)


def _loads(divisor: int) -> list[Load]:
    """Return the kinds of load, each divided by `divisor`."""
    connections, exchanges, megabytes = 4000 // divisor, 4000 // divisor, 50 // divisor
    size_bits = megabytes * 8_000_000
    return [
        Load("connections", "1/s", Conversation(), connections, 4, len, _SUSTAINED),
        Load("requests", "1/s", Conversation(exchanges=exchanges), 2, 2, lambda done: exchanges * len(done)),
        Load(
            f"{megabytes} MB to the server",
            "Gbit/s",
            Conversation(size_bits=size_bits, reply_bits=8),
            1,
            1,
            lambda done: megabytes * 8e-3 * len(done),
        ),
        Load(
            f"{megabytes} MB each way, in turn",
            "Gbit/s",
            Conversation(size_bits=size_bits),
            1,
            1,
            lambda done: 2 * megabytes * 8e-3 * len(done),
        ),
    ]


def _measured(load: Load, bench: Bench) -> Iterator[Measurement]:
    """Measure one load, alternately with and without the probes."""
    lost: list[float] = []
    withheld: list[float] = []

    def measured_rate(probed: bool) -> float:  # noqa: FBT001 (a subject of `interleaved`)
        bench.step(f"load: {load.what}{', all probes attached' if probed else ''}")
        # Build a new network each time: the fewer free ports a client has, the longer connect() searches for one.
        with topology() as net:
            if not probed:
                return _rate(net, load)
            with record(*probes.here(), devices=net.devices, lossy=True) as recorder:
                reached = _rate(net, load)
        lost.append(sum(recorder.recording.lost.values()))
        withheld.append(sum(recorder.recording.withheld.values()))
        return reached

    rates = interleave.interleaved((False, True), bench.times(5, 2), measured_rate)
    yield Measurement(FIGURE, _DEMO, load.what, load.unit, rates[False], goal=load.goal)
    yield Measurement(FIGURE, _PROBES, load.what, load.unit, rates[True])
    yield Measurement(
        FIGURE, _PROBES, f"{load.what}, with all probes", "ratio", interleave.ratios(rates[True], rates[False])
    )
    yield Measurement(FIGURE, _PROBES, f"{load.what}, lost", "events", lost, goal=_NONE)
    yield Measurement(FIGURE, _PROBES, f"{load.what}, withheld", "events", withheld)


def _rate(net: Topology, load: Load) -> float:
    """Apply a load once. Return its amount per second, from the client's first call to its last."""
    net.server.sysctl("core/somaxconn", load.connections)
    with converse(net, load.conversation, connections=load.connections, concurrency=load.concurrency) as demo:
        pass
    net.quiesce()
    calls = [call for connection in demo.connections for call in connection.client.calls]
    took_ns = max(call.exit_ns for call in calls) - min(call.enter_ns for call in calls)
    return load.amount(demo.connections) * SECOND / took_ns
