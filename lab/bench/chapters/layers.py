"""Cost of watching every layer of every request.

Requests and replies of 64 bytes go over the lab's own wire as fast as possible, alternately with and without the probe
`layers`:

- between the demo's client and server;
- between loops of send() and recv(), with one processor per host, and with one for both hosts. This is the cheapest
  possible request, to which the 16 events of the probe are added.

`whole` is the share of requests with every layer known. `lost` counts events without room in the ring.
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

from lab.arrays import concatenated, in_order
from lab.bench import interleave
from lab.bench.context import Bench, explained
from lab.bench.forked import forked, pipe
from lab.choice import Choice
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
_KEPT = Goal(least=True, value=0.95)
_NONE = Goal(least=False, value=0)
_JOINED = Goal(least=False, value=1500)  # a million points in 1.5 seconds
_CONNECTIONS = (1, 4)


Traffic = Callable[[Topology, int], AbstractContextManager[Callable[[float], float]]]
"""Open connections around a block. The yielded function sends requests for some seconds and returns their rate."""


def measure(bench: Bench) -> Iterator[Measurement]:
    """Measure every kind of traffic."""
    cpus = sorted(os.sched_getaffinity(0))
    kinds: dict[str, Traffic] = {
        "demo": _demo,
        "loop, a processor each": partial(_loops, cpus=cpus),
        "loop, one processor for both": partial(_loops, cpus=cpus[:1]),
    }
    for what, traffic in kinds.items():
        for connections in _CONNECTIONS:
            bench.step(f"layers: {what}, {connections}")
            yield from _measured(what, traffic, connections, bench)


def _measured(what: str, traffic: Traffic, connections: int, bench: Bench) -> Iterator[Measurement]:
    """Compare alternating rounds with and without the probe."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    chunks: list[Rows] = []
    with topology() as net, traffic(net, connections) as send_requests:
        hosts = net.inodes
        program = Program.load("layers")
        if program.ring is None:
            raise TypeError("the program has no ring")
        lost = program.lost()
        send_requests(0.2)
        for attached in interleave.order((False, True), bench.times(16, 4)):
            if not attached:
                rates[attached].append(send_requests(0.3))
                continue
            with program.attached(net.devices, Choice(hosts)), Collector(program.ring) as collector:
                rates[attached].append(send_requests(0.3))
                await_grace_period()
                chunks.append(collector.take())
        lost = program.lost() - lost
    events = in_order(concatenated(chunks))
    begin_ns = time.process_time_ns()
    rows = requests(Stages(events, hosts), PORT).rows
    joined_ns = (time.process_time_ns() - begin_ns) / len(events)
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
    took_ms = joined_ns * len(events) / MS
    yield explained(
        joining, f"{len(events):,} events were joined to {len(rows):,} requests in {took_ms:.0f} ms of CPU time"
    )
    yield Measurement(FIGURE, _TOOL, f"{what}, whole", "fraction", [whole], conditions)


@contextmanager
def _demo(net: Topology, connections: int) -> Iterator[Callable[[float], float]]:
    """Traffic between the demo's client and server, for about the given seconds."""
    requests = 100

    def send_requests(seconds: float) -> float:
        nonlocal requests
        with converse(net, Conversation(size_bits=SIZE * 8, exchanges=requests), connections=connections) as demo:
            pass
        calls = [connection.client.calls for connection in demo.connections]
        took_ns = max(its[-1].enter_ns for its in calls) - min(its[0].exit_ns for its in calls)
        rate = connections * requests * SECOND / took_ns
        requests = int(rate * seconds / connections) + 1
        return rate

    yield send_requests


@contextmanager
def _loops(net: Topology, connections: int, cpus: Sequence[int]) -> Iterator[Callable[[float], float]]:
    """Traffic between pairs of processes, one pair per connection. The rate is that of all pairs together.

    The servers run on the first of the processors, the clients on the last.
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
            for role, *arguments in ((_server, cpus[0], server), (_client, cpus[-1], client, theirs)):
                process = forked(role, *arguments)
                stack.callback(process.join)
                stack.callback(process.terminate)

        def send_requests(seconds: float) -> float:
            for end in pipes:
                end.send(seconds)
            return sum(float(end.recv()) for end in pipes)

        yield send_requests


def _server(cpu: int, server: socket.socket) -> None:
    os.sched_setaffinity(0, {cpu})
    reply = bytes(SIZE)
    while server.recv(SIZE):
        server.send(reply)


def _client(cpu: int, client: socket.socket, end: Connection) -> None:
    os.sched_setaffinity(0, {cpu})
    request = bytes(SIZE)
    while True:
        seconds = end.recv()
        begin = now = time.monotonic()
        sent = 0
        while now < begin + seconds:
            client.send(request)
            client.recv(SIZE)
            sent += 1
            now = time.monotonic()
        end.send(sent / (now - begin))
