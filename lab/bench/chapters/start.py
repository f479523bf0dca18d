"""How long after it was started a tool can tell of its first event.

Sockets begin to listen, one each millisecond, each on the next port: the first port in what a tool prints says which event was the
first that it could see. That is asked of those that print every change of state; of all tools it is measured when they say that they
are ready, which bpftrace says a tenth of a second late. Every tool is started once before, so that its files are in memory.
"""

import multiprocessing
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from lab.bench import tools, turns
from lab.bench.chapters import Bench, able, explained, refused
from lab.bench.load_generator import Place, loopback
from lab.bench.measurement import Goal, Measurement
from lab.bench.tools import Scope, running
from lab.netns import inside
from lab.units import MS

FIGURE = "start"
_ADDRESS = "127.9.9.9"  # nobody else's
_FIRST_PORT = 2000
_EVERY_NS = MS
_WARM_MS = 150.0
_FORK = multiprocessing.get_context("fork")


def measure(bench: Bench) -> Iterator[Measurement]:
    """Start every tool again and again, in turns."""
    yield from refused(FIGURE, "ready", "ms", *tools.KINDS)
    started = able(*tools.KINDS)
    samples: dict[tuple[str, str], list[float]] = {}
    for tool in turns.order(started, bench.times(7, 3)):
        bench.step(f"start: {tool.name}")
        with loopback() as place, _listening(place) as told:
            begin_ns = time.monotonic_ns()
            with running(tool, Scope(place.client)) as run:
                ready_ns = time.monotonic_ns()
                if tool.kind == tools.STATES:
                    run.await_text(_ADDRESS, 20.0)
                    run.end()
                    ports = [row.lport for row in run.rows() if row.laddr == _ADDRESS and row.newstate == "LISTEN"]
                    seen_ns = told()[min(ports) - _FIRST_PORT]
                    samples.setdefault((tool.name, "first event possible"), []).append((seen_ns - begin_ns) / MS)
        samples.setdefault((tool.name, "ready"), []).append((ready_ns - begin_ns) / MS)
    for (name, quantity), values in samples.items():
        goal = Goal(least=False, value=_WARM_MS) if (name, quantity) == ("lab states", "first event possible") else None
        row = Measurement(FIGURE, name, quantity, "ms", values, {"files": "in memory"}, goal)
        yield explained(row, "it is imports and, where nothing is kept from an earlier start, compiling")


class _Told:
    """When each socket began to listen; asked once."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def __call__(self) -> list[int]:
        self._pipe.send(None)
        return list(self._pipe.recv())


@contextmanager
def _listening(place: Place) -> Iterator[_Told]:
    """Have sockets begin to listen around a block; what is yielded returns when each did (`CLOCK_MONOTONIC`, ns)."""
    ours, theirs = _FORK.Pipe()
    process = _FORK.Process(target=inside, args=(place.client, lambda: _listen(theirs)), daemon=True)
    process.start()
    ours.recv()
    try:
        yield _Told(ours)
    finally:
        process.kill()
        process.join()


def _listen(pipe: Connection) -> None:
    times_ns: list[int] = []
    pipe.send(None)
    while not pipe.poll(_EVERY_NS / 1e9):
        with socket.socket() as listener:
            listener.bind((_ADDRESS, _FIRST_PORT + len(times_ns)))
            listener.listen()
            times_ns.append(time.monotonic_ns())
    pipe.send(times_ns)
