"""Time from the start of a tool to the first event that it can report.

- `first event possible`, for tools that print every state change: one socket per millisecond begins to listen, each on
  the next port. The lowest port in the tool's output identifies the first event that it observed.
- `ready`, for all tools: the time until the tool reports that it observes. bpftrace reports it up to 0.1 s late.
- Every tool runs once before the measurement, so its files are in memory.
- `cache` concerns the compiled programs of this project: kept from an earlier start, or empty (only for `lab states`).
"""

import socket
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection

import msgspec
import numpy as np

from lab.bench import interleave, tools
from lab.bench.context import Bench, explained, refused, runnable
from lab.bench.forked import forked, pipe
from lab.judging.description import Description
from lab.judging.running import Scope, running
from lab.linux.netns import inside
from lab.results.measurement import Goal, Measurement
from lab.traffic.load_generator import Place, loopback
from lab.units import MS

FIGURE = "start"
_ADDRESS = "127.9.9.9"  # no other traffic uses it
_FIRST_PORT = 2000
_EVERY_NS = MS
_FIRST_EVENT = "first event possible"
_GOALS_MS = {"kept": 150.0, "empty": 300.0}
_GOALS_OF = "lab states"


def measure(bench: Bench) -> Iterator[Measurement]:
    """Start every tool repeatedly, in interleaved order."""
    yield from refused(FIGURE, "ready", "ms", *tools.KINDS)
    warm = [(tool, "kept" if tool.ours else "") for tool in runnable(*tools.KINDS)]
    cold = [(tool, "empty") for tool, _ in warm if tool.name == _GOALS_OF]
    samples: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for tool, cache in interleave.order([*warm, *cold], bench.times(7, 3)):
        bench.step(f"start: {tool.name}")
        for quantity, took_ms in _started(tool, cache).items():
            samples[tool.name, cache, quantity].append(took_ms)
    for (name, cache, quantity), values in samples.items():
        goal = Goal(least=False, value=_GOALS_MS[cache]) if (name, quantity) == (_GOALS_OF, _FIRST_EVENT) else None
        row = Measurement(FIGURE, name, quantity, "ms", values, {"cache": cache} if cache else {}, goal)
        yield explained(row, _why(samples, cache)) if goal else row


def _why(samples: Mapping[tuple[str, str, str], list[float]], cache: str) -> str:
    """Return the compiler's share of a start as text: the difference between an empty cache and a kept one."""
    kept_ms = float(np.median(samples[_GOALS_OF, "kept", _FIRST_EVENT]))
    if cache == "kept":
        return f"Python and the kernel's verifier take {kept_ms:.0f} ms, without compiling"
    compiling_ms = float(np.median(samples[_GOALS_OF, cache, _FIRST_EVENT])) - kept_ms
    peers = (
        f"{name} {np.median(values):.0f} ms"
        for (name, its_cache, quantity), values in samples.items()
        if (its_cache, quantity) == ("", _FIRST_EVENT)
    )
    return f"compiling takes {compiling_ms:.0f} ms, the rest {kept_ms:.0f} ms; peers: {', '.join(peers)}"


def _started(tool: Description, cache: str) -> dict[str, float]:
    """Start a tool once. Return milliseconds until it is ready, and until its first event if it prints state changes."""
    with tempfile.TemporaryDirectory(prefix="lab-start-") as empty, loopback() as place, _listening(place) as times_ns:
        if cache == "empty":
            tool = msgspec.structs.replace(tool, environment={"XDG_CACHE_HOME": empty})
        begin_ns = time.monotonic_ns()
        with running(tool, Scope(place.client)) as run:
            took = {"ready": (time.monotonic_ns() - begin_ns) / MS}
            if tool.kind == tools.STATES:
                run.await_text(_ADDRESS, 20.0)
                run.end()
                ports = [
                    row.get("lport")
                    for row in run.rows()
                    if row.get("laddr") == _ADDRESS and row.get("newstate") == "LISTEN"
                ]
                took[_FIRST_EVENT] = (times_ns()[min(ports) - _FIRST_PORT] - begin_ns) / MS
    return took


@contextmanager
def _listening(place: Place) -> Iterator[Callable[[], list[int]]]:
    """Open one listening socket per millisecond during a block.

    The yielded function stops that, and returns the time at which each socket began to listen (`CLOCK_MONOTONIC`, ns).
    Call it once.
    """
    ours, theirs = pipe()
    process = forked(inside, place.client, lambda: _listen(theirs))
    ours.recv()

    def times_ns() -> list[int]:
        ours.send(None)
        return list(ours.recv())

    try:
        yield times_ns
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
