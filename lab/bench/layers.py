"""What it costs to watch every layer of every request: `python -m lab.bench.layers`, as root, on an idle machine.

Requests and replies go to and fro over the lab's own wire, as fast as they can, for a while without the probe and for a while with
it, in turns; and the points that were lost are counted. First between the demo's client and server; then between loops that do
nothing else but send() and recv() 64 bytes, with a processor for each host, and with one for both: the least that a request can
cost, to which the probe's 16 points are added.
"""

import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tabulate import tabulate

from lab.bench import turns
from lab.collected import Collector
from lab.demo.conversation import PORT, Conversation
from lab.demo.process import converse
from lab.exchanges import exchanges
from lab.journeys import Ways
from lab.netns import inside
from lab.program import Program
from lab.settle import settle
from lab.topology import Topology, topology
from lab.units import SECOND

SIZE = 64
ROUNDS = 16
SECONDS = 0.3
CONNECTIONS = (1, 4)
_FORK = multiprocessing.get_context("fork")


Traffic = Callable[[Topology, int], AbstractContextManager[Callable[[float], float]]]
"""Makes connections, and hands out what has requests made on them for so many seconds, which returns their rate."""


class Row(NamedTuple):
    """One measurement: requests per second without the probe and with it (medians of all rounds), and what became of the points.

    The ratio is the median of the rounds' own: what else the machine does changes from one to the next.
    """

    what: str
    without: float
    attached: float
    ratio: float
    points: int
    lost: int
    whole: float  # share of the requests of which every layer is known


def main() -> None:
    """Measure everything and print a table."""
    cpus = sorted(os.sched_getaffinity(0))
    rows = [measured(f"demo, {plural(connections)}", _conversing, connections) for connections in CONNECTIONS]
    for where, of in (("a processor each", cpus), ("one for both", cpus[:1])):
        loops = partial(_asking, cpus=of)
        rows += [measured(f"loop, {plural(connections)}, {where}", loops, connections) for connections in CONNECTIONS]
    head = ["requests", "/s without", "/s attached", "ratio", "points", "lost", "whole %"]
    print(tabulate(rows, headers=head, floatfmt=(".0f", ",.0f", ",.0f", ".3f", ",.0f", ".0f", ".3f")))


def plural(connections: int) -> str:
    """Say how many."""
    return f"{connections} connection{'s' if connections > 1 else ''}"


def measured(what: str, traffic: Traffic, connections: int, rounds: int = ROUNDS, seconds: float = SECONDS) -> Row:
    """Compare rounds with and without the probe, in turns."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    chunks: list[npt.NDArray[np.void]] = []
    with topology() as net, traffic(net, connections) as ask:
        hosts = net.inodes
        program = Program.load("layers")
        if program.ring is None:
            raise TypeError("the program has no ring")
        lost = program.lost()
        ask(0.2)
        for attached in turns.order((False, True), rounds):
            if not attached:
                rates[attached].append(ask(seconds))
                continue
            with program.attached(net.devices, hosts), Collector(program.ring) as collector:
                rates[attached].append(ask(seconds))
                settle()
                chunks.append(collector.take())
        lost = program.lost() - lost
    points = np.concatenate(chunks)
    rows = exchanges(Ways(points[np.argsort(points["time_ns"], kind="stable")], hosts), PORT).rows
    whole = float((rows["layers_ns"] >= 0).all(axis=(1, 2)).mean()) * 100
    ratio = float(np.median(turns.ratios(rates[True], rates[False])))
    medians = [float(np.median(rates[key])) for key in (False, True)]
    return Row(what, medians[0], medians[1], ratio, len(points), lost, whole)


@contextmanager
def _conversing(net: Topology, connections: int) -> Iterator[Callable[[float], float]]:
    """Hand out what has the demo's client and server talk for about so many seconds; that returns the requests per second."""
    exchanges = 100

    def ask(seconds: float) -> float:
        nonlocal exchanges
        with converse(net, Conversation(size_bits=SIZE * 8, exchanges=exchanges), connections=connections) as demo:
            pass
        calls = [connection.client.calls for connection in demo.connections]
        took_ns = max(them[-1].enter_ns for them in calls) - min(them[0].exit_ns for them in calls)
        rate = connections * exchanges * SECOND / took_ns
        exchanges = int(rate * seconds / connections) + 1
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
            ours, theirs = _FORK.Pipe()
            pipes.append(ours)
            for role, *arguments in ((_answer, cpus[0], server), (_ask, cpus[-1], client, theirs)):
                process = _FORK.Process(target=role, args=arguments, daemon=True)
                process.start()
                stack.callback(process.join)
                stack.callback(process.terminate)

        def ask(seconds: float) -> float:
            for pipe in pipes:
                pipe.send(seconds)
            return sum(float(pipe.recv()) for pipe in pipes)

        yield ask


def _answer(cpu: int, server: socket.socket) -> None:
    os.sched_setaffinity(0, {cpu})
    reply = bytes(SIZE)
    while server.recv(SIZE):
        server.send(reply)


def _ask(cpu: int, client: socket.socket, pipe: Connection) -> None:
    os.sched_setaffinity(0, {cpu})
    request = bytes(SIZE)
    while True:
        seconds = pipe.recv()
        begin = now = time.monotonic()
        asked = 0
        while now < begin + seconds:
            client.send(request)
            client.recv(SIZE)
            asked += 1
            now = time.monotonic()
        pipe.send(asked / (now - begin))


if __name__ == "__main__":
    main()
