"""Memory of each tool, idle and at its peak under thousands of connections, and CPU use when idle.

Memory is resident memory of a tool and its descendants, including the mapped ring. A recording of a million events is
measured in a process of its own, as the increase over its memory with the program loaded. The increase depends on the
size of an event, 64 to 136 bytes by the probe. The program is that of `duration`; the row has its size.
"""

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from lab.bench import interleave, tools
from lab.bench.context import Bench, explained, refused, runnable
from lab.bench.forked import forked, pipe
from lab.bench.producer import produce
from lab.ebpf.program import Program
from lab.errors import LabError
from lab.judging.running import Scope, running_idle
from lab.linux import process
from lab.recording.drain_thread import DRAIN_INTERVAL_S
from lab.recording.recorder import record
from lab.results.measurement import Goal, Measurement
from lab.traffic.load_generator import loopback

if TYPE_CHECKING:
    from lab.judging.description import Description

FIGURE = "memory"
_MB = 1_000_000
_MOST_MB = 150.0
_MOST_OF_RECORDING_MB = 100.0
_MILLION = 1_000_000
_BATCH = 20_000
_MOST_WAITING = 0.02
_WAITING_S = 1.0


def measure(bench: Bench) -> Iterator[Measurement]:
    """Measure every tool, and a recording."""
    yield from refused(FIGURE, "idle", "MB", *tools.KINDS)
    samples: dict[tuple[str, str, bool], list[float]] = {}
    largest: dict[str, str] = {}
    processor: dict[Description, list[float]] = defaultdict(list)
    for tool in interleave.order(runnable(*tools.KINDS), bench.times(2, 1)):
        bench.step(f"memory: {tool.name}")
        with loopback() as place, running_idle(tool, Scope(place.client)) as run:
            idle = process.family_memory(run.pid)
            waiting = process.busy_share(run.pid, _WAITING_S)
            place.connections(bench.times(10_000, 2000))
            place.requests(bench.times(10_000, 2000), 100, 100)
            run.await_quiet()
            loaded = process.family_memory(run.pid, "VmHWM")
            largest[tool.name] = process.largest_mappings(run.pid)
        samples.setdefault((tool.name, "idle", tool.ours), []).append(idle / _MB)
        samples.setdefault((tool.name, "at most, under load", tool.ours), []).append(loaded / _MB)
        processor[tool].append(waiting)
    for (name, quantity, ours), values in samples.items():
        goal = Goal(least=False, value=_MOST_MB) if ours else None
        row = Measurement(FIGURE, name, quantity, "MB", values, goal=goal)
        yield explained(row, f"the largest parts are {largest[name]} (a ring is mapped twice and counts twice)")
    for tool, values in processor.items():
        goal = Goal(least=False, value=_MOST_WAITING) if tool.ours else None
        row = Measurement(FIGURE, tool.name, "processor, idle", "fraction", values, goal=goal)
        yield explained(row, "the tool polls for events")
    bench.step("memory: a recording of a million events")
    recorded = [_recording() for _ in range(bench.times(3, 1))]
    alone = recorded[0].events
    row = Measurement(
        FIGURE,
        "lab (recording)",
        "a recording of a million events",
        "MB",
        [it.most / _MB for it in recorded],
        {"bytes an event": alone // _MILLION},
        Goal(least=False, value=_MOST_OF_RECORDING_MB),
    )
    yield explained(row, f"the events alone are {alone / _MB:.0f} MB")


class _Recorded(NamedTuple):
    """Peak increase of the memory during a recording, and the size of its events, in bytes."""

    most: int
    events: int


def _recording() -> _Recorded:
    """Record a million events in a process of its own."""
    ours, theirs = pipe()
    child = forked(lambda: theirs.send(_record_a_million()))
    theirs.close()  # recv() raises EOFError if the child exits early
    try:
        return _Recorded(*ours.recv())
    except EOFError:
        raise LabError("the recording of a million events failed: see its output above") from None
    finally:
        child.kill()
        child.join()


def _record_a_million() -> _Recorded:
    program = Program.load("duration")
    process.forget_peak(os.getpid())
    before = process.memory(os.getpid())
    with record(programs={"duration": program}) as recorder:
        for _ in range(_MILLION // _BATCH):
            produce(program, _BATCH)
            time.sleep(2 * DRAIN_INTERVAL_S)  # the chapter on events measures the rate
    events = recorder.recording.events["duration"]
    if len(events) != _MILLION:
        raise AssertionError("a complete recording has every event")
    return _Recorded(process.memory(os.getpid(), "VmHWM") - before, events.nbytes)
