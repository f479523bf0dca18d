"""What it costs to watch every layer of every request.

Requests and replies of 64 bytes go to and fro over the lab's own wire, as fast as they can, for a while without the probe `layers`
and for a while with it, in turns. First between the demo's client and server; then between loops that do nothing else but send() and
recv(), with a processor for each host, and with one for both: the least that a request can cost, to which the probe's 16 points are
added. `whole` is the share of the requests of which every layer is known, `lost` counts points.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import numpy as np

from lab.bench import interleave
from lab.bench.context import Bench, explained
from lab.bench.forked import forked, pipe
from lab.ebpf.program import Program
from lab.linux.grace_period import await_grace_period
from lab.linux.netns import inside
from lab.live.collector import Collector
from lab.network.topology import Topology, topology
from lab.probes.layers.requests import requests
from lab.probes.layers.stages import Stages
from lab.results.measurement import Goal, Measurement
from lab.traffic.demo.conversation import PORT, Conversation
from lab.traffic.demo.process import converse
from lab.units import MS, SECOND

if TYPE_CHECKING:
    from lab.arrays import Rows

FIGURE = "layers"
SIZE = 64
_TOOL = "lab layers"
_KEPT = Goal(least=True, value=0.85)
_NONE = Goal(least=False, value=0)
_JOINED = Goal(least=False, value=2000)  # a million points in two seconds
_CONNECTIONS = (1, 4)


Traffic = Callable[[Topology, int], AbstractContextManager[Callable[[float], float]]]
"""Makes connections, and hands out what has requests made on them for so many seconds, which returns their rate."""


def measure(bench: Bench) -> Iterator[Measurement]:
    """Measure every kind of traffic."""
    cpus = sorted(os.sched_getaffinity(0))
    kinds: dict[str, Traffic] = {
        "demo": _conversing,
        "loop, a processor each": partial(_asking, cpus=cpus),
        "loop, one processor for both": partial(_asking, cpus=cpus[:1]),
    }
    for what, traffic in kinds.items():
        for connections in _CONNECTIONS:
            bench.step(f"layers: {what}, {connections}")
            yield from _measured(what, traffic, connections, bench)


def _measured(what: str, traffic: Traffic, connections: int, bench: Bench) -> Iterator[Measurement]:
    """Compare rounds with and without the probe, in turns."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    chunks: list[Rows] = []
    with topology() as net, traffic(net, connections) as ask:
        hosts = net.inodes
        program = Program.load("layers")
        if program.ring is None:
            raise TypeError("the program has no ring")
        lost = program.lost()
        ask(0.2)
        for attached in interleave.order((False, True), bench.times(16, 4)):
            if not attached:
                rates[attached].append(ask(0.3))
                continue
            with program.attached(net.devices, hosts), Collector(program.ring) as collector:
                rates[attached].append(ask(0.3))
                await_grace_period()
                chunks.append(collector.take())
        lost = program.lost() - lost
    points = np.concatenate(chunks)
    points = points[np.argsort(points["time_ns"], kind="stable")]
    begin_ns = time.process_time_ns()
    rows = requests(Stages(points, hosts), PORT).rows
    joined_ns = (time.process_time_ns() - begin_ns) / len(points)
    whole = float((rows["layers_ns"] >= 0).all(axis=(1, 2)).mean())
    conditions = {"connections": connections}
    ratio = Measurement(FIGURE, _TOOL, what, "ratio", interleave.ratios(rates[True], rates[False]), conditions, _KEPT)
    request_ns, added_ns = (SECOND / float(np.median(rates[key])) for key in (False, True))
    yield explained(
        ratio, f"a request that takes {request_ns / 1000:.0f} us takes {(added_ns - request_ns) / 1000:.1f} us longer"
    )
    yield Measurement(FIGURE, "none", f"{what}, requests", "1/s", rates[False], conditions)
    yield Measurement(FIGURE, _TOOL, f"{what}, requests", "1/s", rates[True], conditions)
    yield Measurement(FIGURE, _TOOL, f"{what}, lost", "points", [float(lost)], conditions, _NONE)
    joining = Measurement(FIGURE, _TOOL, f"{what}, joining a point", "ns", [joined_ns], conditions, _JOINED)
    took_ms = joined_ns * len(points) / MS
    yield explained(
        joining, f"{len(points):,} points were joined to {len(rows):,} requests in {took_ms:.0f} ms of processor time"
    )
    yield Measurement(FIGURE, _TOOL, f"{what}, whole", "fraction", [whole], conditions)


@contextmanager
def _conversing(net: Topology, connections: int) -> Iterator[Callable[[float], float]]:
    """Hand out what has the demo's client and server talk for about so many seconds; that returns the requests per second."""
    requests = 100

    def ask(seconds: float) -> float:
        nonlocal requests
        with converse(net, Conversation(size_bits=SIZE * 8, exchanges=requests), connections=connections) as demo:
            pass
        calls = [connection.client.calls for connection in demo.connections]
        took_ns = max(them[-1].enter_ns for them in calls) - min(them[0].exit_ns for them in calls)
        rate = connections * requests * SECOND / took_ns
        requests = int(rate * seconds / connections) + 1
        return rate

    yield ask


@contextmanager
def _asking(net: Topology, connections: int, cpus: Sequence[int]) -> Iterator[Callable[[float], float]]:
    """Connect clients with servers, each a process of its own; hands out what has all clients ask for so many seconds.

    The servers run on the first of the processors, the clients on the last. Returned are the requests per second, of all together.
    """
    with ExitStack() as stack:
        listener = stack.enter_context(inside(net.server.name, lambda: socket.create_server((net.server.ipv4, PORT))))
        pipes = []
        for _ in range(connections):
            client = stack.enter_context(
                inside(net.client.name, lambda: socket.create_connection(listener.getsockname()))
            )
            server = stack.enter_context(listener.accept()[0])
            ours, theirs = pipe()
            pipes.append(ours)
            for role, *arguments in ((_answer, cpus[0], server), (_ask, cpus[-1], client, theirs)):
                process = forked(role, *arguments)
                stack.callback(process.join)
                stack.callback(process.terminate)

        def ask(seconds: float) -> float:
            for end in pipes:
                end.send(seconds)
            return sum(float(end.recv()) for end in pipes)

        yield ask


def _answer(cpu: int, server: socket.socket) -> None:
    os.sched_setaffinity(0, {cpu})
    reply = bytes(SIZE)
    while server.recv(SIZE):
        server.send(reply)


def _ask(cpu: int, client: socket.socket, end: Connection) -> None:
    os.sched_setaffinity(0, {cpu})
    request = bytes(SIZE)
    while True:
        seconds = end.recv()
        begin = now = time.monotonic()
        asked = 0
        while now < begin + seconds:
            client.send(request)
            client.recv(SIZE)
            asked += 1
            now = time.monotonic()
        end.send(asked / (now - begin))
