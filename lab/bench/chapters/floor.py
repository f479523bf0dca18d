"""Run time of each probe as a ratio to the least that a program can do for the same events.

- The floor program reads the clock, and reserves and submits a record of the probe's size: nothing else.
- Floor and probe take turns under the same load. Both are cleared of the cost of the kernel's statistics.
- The time of a probe is that of all its programs, divided by the number of its records. A probe that adds up in the
  kernel has one record for each value that it adds.
- A program that is measured for twice the events must take twice the time: otherwise the measurement is wrong.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lab import probes
from lab.bench.context import Bench, explained
from lab.bench.interleave import interleaved, ratios
from lab.bench.run_time import counted, since
from lab.bench.tools import CHANGES
from lab.choice import Choice
from lab.ebpf.program import Program
from lab.linux import bpf
from lab.network.topology import topology
from lab.recording.drain_thread import DrainThread
from lab.results.measurement import Goal, Measurement
from lab.traffic.load_generator import Place, across

FIGURE = "floor"
RATIO = "ratio to the floor"


@dataclass(frozen=True)
class Subject:
    """A probe, the event of its floor, its load, the most that its ratio may be, and the record of a probe without a ring."""

    probe: str
    event: str
    connections: int
    requests: int
    goal: float
    size: int = 0
    counts: str = ""
    """The member of its totals that counts the values."""


SUBJECTS = (
    Subject("states", "AT_CHANGE", 1000, 0, 1.5),
    Subject("duration", "AT_FRAME", 1000, 0, 1.5),
    Subject("packets", "AT_ARRIVAL", 300, 3000, 1.5),
    Subject("flows", "AT_FRAME", 0, 3000, 2, size=64, counts="packets"),
    Subject("rtt", "AT_SEGMENT", 0, 3000, 2, size=64, counts="count"),
    Subject("layers", "AT_FRAME", 0, 1000, 1.5),
    Subject("analyse", "AT_CHANGE", 300, 1000, 2),
)


class Taken(NamedTuple):
    """The net time of a program's functions, and the number of its records."""

    net_ns: float
    records: int


def measure(bench: Bench) -> Iterator[Measurement]:
    """Yield the ratio of each probe, and the check of the measurement."""
    for subject in SUBJECTS:
        if why := probes.refusal(subject.probe):
            yield Measurement(FIGURE, f"lab {subject.probe}", RATIO, "ratio", refused=why)
        else:
            bench.step(f"floor: lab {subject.probe}")
            yield from _of(subject, bench)


def _of(subject: Subject, bench: Bench) -> Iterator[Measurement]:
    name, probe = f"lab {subject.probe}", Program.load(subject.probe)
    size = subject.size or (probe.ring.dtype.itemsize if probe.ring else 0)
    floor = Program.load("floor", (f"SIZE={size}", f"{subject.event}=1"))
    load = bench.times(3, 1)
    turns = {"floor": (floor, load), "probe": (probe, load), "twice": (probe, 2 * load)}

    def taken(turn: str) -> Taken:
        return _taken(turns[turn][0], subject, turns[turn][1])

    found = interleaved(list(turns), bench.times(7, 3), taken)
    of_floor, of_probe = ([it.net_ns / it.records for it in found[turn]] for turn in ("floor", "probe"))
    yield Measurement(FIGURE, name, "per record of the floor", "ns", of_floor)
    yield Measurement(FIGURE, name, "per record", "ns", of_probe)
    goal = Goal(least=False, value=subject.goal)
    row = Measurement(FIGURE, name, RATIO, "ratio", ratios(of_probe, of_floor), goal=goal)
    yield explained(row, f"records of {size} bytes")
    once_ns, twice_ns = ([it.net_ns for it in found[turn]] for turn in ("probe", "twice"))
    yield Measurement(FIGURE, name, "time for twice the events", "ratio", ratios(twice_ns, once_ns))


def _taken(program: Program, subject: Subject, scale: int) -> Taken:
    """Apply the load and return what the program took of it."""
    with topology() as net, counted(CHANGES) as empty, program.attached(net.devices, Choice(net.inodes)):
        records = _Records(program, subject.counts)
        before = [bpf.prog_runs(fd) for fd in (*program.fds, empty)]
        with records:
            _load(across(net), subject, scale)
            net.quiesce()
        *functions, of_empty = map(since, [bpf.prog_runs(fd) for fd in (*program.fds, empty)], before)
    each_ns = of_empty.time_ns / of_empty.number
    return Taken(sum(it.time_ns - it.number * each_ns for it in functions), records.number)


def _load(place: Place, subject: Subject, scale: int) -> None:
    if subject.connections:
        place.connections(scale * subject.connections)
    if subject.requests:
        place.requests(scale * subject.requests)


class _Records:
    """Counts the records of a program: drains its ring during the block, or takes its totals at the end."""

    def __init__(self, program: Program, counts: str) -> None:
        self.number = 0
        self._program, self._counts = program, counts
        self._thread = DrainThread(self._drain)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.stop()
        self._drain()
        if self._program.has_totals and not self.number:
            self.number = int(np.sum(self._program.take_totals()[self._counts]))

    def _drain(self) -> None:
        if self._program.ring:
            self.number += len(self._program.ring.drain())
