"""How long after it was started a tool can tell of its first event.

Sockets begin to listen, one each millisecond, each on the next port: the first port in what a tool prints says which event was the
first that it could see. That is asked of those that print every change of state; of all tools it is measured when they say that they
are ready, which bpftrace says a tenth of a second late. Every tool is started once before, so that its files are in memory. What this
project keeps of an earlier start, its compiled programs, is there as well (`cache: kept`) or, for `lab states`, not (`cache: empty`).
"""

import socket
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection

import numpy as np

from lab.bench import interleave, tools
from lab.bench.context import Bench, able, explained, refused
from lab.bench.forked import forked, pipe
from lab.bench.load_generator import Place, loopback
from lab.bench.tools import Scope, Tool, running
from lab.linux.netns import inside
from lab.results.measurement import Goal, Measurement
from lab.units import MS

FIGURE = "start"
_ADDRESS = "127.9.9.9"  # nobody else's
_FIRST_PORT = 2000
_EVERY_NS = MS
_TOLD = "first event possible"
_GOALS_MS = {"kept": 150.0, "empty": 300.0}
_GOALS_OF = "lab states"


def measure(bench: Bench) -> Iterator[Measurement]:
    """Start every tool again and again, in turns."""
    yield from refused(FIGURE, "ready", "ms", *tools.KINDS)
    warm = [(tool, "kept" if tool.ours else "") for tool in able(*tools.KINDS)]
    cold = [(tool, "empty") for tool, _ in warm if tool.name == _GOALS_OF]
    samples: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for tool, cache in interleave.order([*warm, *cold], bench.times(7, 3)):
        bench.step(f"start: {tool.name}")
        for quantity, took_ms in _started(tool, cache).items():
            samples[tool.name, cache, quantity].append(took_ms)
    for (name, cache, quantity), values in samples.items():
        goal = Goal(least=False, value=_GOALS_MS[cache]) if (name, quantity) == (_GOALS_OF, _TOLD) else None
        row = Measurement(FIGURE, name, quantity, "ms", values, {"cache": cache} if cache else {}, goal)
        yield explained(row, _why(samples, cache)) if goal else row


def _why(samples: Mapping[tuple[str, str, str], list[float]], cache: str) -> str:
    """Say what of a start the compiler takes: that is all the difference between an empty cache and a kept one."""
    kept = float(np.median(samples[_GOALS_OF, "kept", _TOLD]))
    if cache == "kept":
        return f"that is Python, and the kernel's own look through the programs: {kept:.0f} ms with nothing to compile"
    compiling = float(np.median(samples[_GOALS_OF, cache, _TOLD])) - kept
    others = (
        f"{name} {np.median(values):.0f} ms"
        for (name, its, asked), values in samples.items()
        if (its, asked) == ("", _TOLD)
    )
    return f"compiling takes {compiling:.0f} ms, without it is {kept:.0f} ms; others: {', '.join(others)}"


def _started(tool: Tool, cache: str) -> dict[str, float]:
    """Start a tool once; returns milliseconds from there until it was ready and, where it prints changes of state, saw its first."""
    with tempfile.TemporaryDirectory(prefix="lab-start-") as empty, loopback() as place, _listening(place) as told:
        if cache == "empty":
            tool = replace(tool, environment=lambda: {"XDG_CACHE_HOME": empty})
        begin_ns = time.monotonic_ns()
        with running(tool, Scope(place.client)) as run:
            took = {"ready": (time.monotonic_ns() - begin_ns) / MS}
            if tool.kind == tools.STATES:
                run.await_text(_ADDRESS, 20.0)
                run.end()
                ports = [row.lport for row in run.rows() if row.laddr == _ADDRESS and row.newstate == "LISTEN"]
                took[_TOLD] = (told()[min(ports) - _FIRST_PORT] - begin_ns) / MS
    return took


class _Told:
    """When each socket began to listen; asked once."""

    def __init__(self, end: Connection) -> None:
        self._pipe = end

    def __call__(self) -> list[int]:
        self._pipe.send(None)
        return list(self._pipe.recv())


@contextmanager
def _listening(place: Place) -> Iterator[_Told]:
    """Have sockets begin to listen around a block; what is yielded returns when each did (`CLOCK_MONOTONIC`, ns)."""
    ours, theirs = pipe()
    process = forked(inside, place.client, lambda: _listen(theirs))
    ours.recv()
    try:
        yield _Told(ours)
    finally:
        process.kill()
        process.join()


def _listen(end: Connection) -> None:
    times_ns: list[int] = []
    end.send(None)
    while not end.poll(_EVERY_NS / 1e9):
        with socket.socket() as listener:
            listener.bind((_ADDRESS, _FIRST_PORT + len(times_ns)))
            listener.listen()
            times_ns.append(time.monotonic_ns())
    end.send(times_ns)
