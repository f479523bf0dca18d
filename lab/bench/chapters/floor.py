"""Run time of each probe as a ratio to the least that a program can do for the same events.

- The floor program reads the clock, and reserves and submits a record of the probe's size: nothing else.
- Floor and probe take turns under the same load. Both are cleared of the cost of the kernel's statistics.
- The time of a probe is that of all its programs, divided by the number of its records. A probe that adds up in the
  kernel has none: its time is divided by the number of events, for each of which the floor has a record.
- Most frames carry nothing for `lab duration`, which reports SYN and FIN. For those it is compared with an empty program.
- A program that is measured for twice the events must take twice the time: otherwise the measurement is wrong.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lab import probes
from lab.bench.context import Bench, explained
from lab.bench.interleave import interleaved, ratios
from lab.bench.run_time import Cost, counted, read_runs, since
from lab.bench.tools import CHANGES, SEGMENTS
from lab.choice import Choice
from lab.ebpf.program import Program
from lab.linux.bpf import Runs
from lab.live.collector import Collector
from lab.network.topology import topology
from lab.results.measurement import Goal, Measurement
from lab.traffic.load_generator import Place, across

FIGURE = "floor"
RATIO = "ratio to the floor"


@dataclass(frozen=True)
class Subject:
    """A probe, the event of its floor, its load, the most that its ratio may be, and the size of a record without a ring."""

    probe: str
    event: str
    connections: int
    requests: int
    goal: float
    size: int = 0


SUBJECTS = (
    Subject("states", "AT_CHANGE", 1000, 0, 1.5),
    Subject("duration", "AT_FRAME", 1000, 0, 1.5),
    Subject("packets", "AT_ARRIVAL", 300, 3000, 1.5),
    Subject("flows", "AT_FRAME", 0, 3000, 2, size=64),
    Subject("rtt", "AT_SEGMENT", 0, 3000, 2, size=64),
    Subject("layers", "AT_FRAME", 0, 1000, 1.5),
    Subject("analyse", "AT_CHANGE", 300, 1000, 2),
)


class Taken(NamedTuple):
    """What a program's functions took, and the number of its records, or of its events."""

    cost: Cost
    records: int

    @property
    def per_record_ns(self) -> float:
        """Time for one record, without the cost of the statistics."""
        return self.cost.net_ns / self.records

    @property
    def per_run_ns(self) -> float:
        """Time of one run, with the cost of the statistics: the empty program takes it as well."""
        return sum(it.time_ns for it in self.cost.programs) / sum(it.number for it in self.cost.programs)


def measure(bench: Bench) -> Iterator[Measurement]:
    """Yield the ratio of each probe, and the check of the measurement."""
    for subject in SUBJECTS:
        if why := probes.refusal(subject.probe):
            yield Measurement(FIGURE, f"lab {subject.probe}", RATIO, "ratio", refused=why)
        else:
            bench.step(f"floor: lab {subject.probe}")
            yield from _of(subject, bench)
    bench.step("floor: lab duration, frames in between")
    yield _in_between(bench)


def floor_of(subject: Subject, probe: Program) -> Program:
    """Return the floor program of a probe: records of its size, for its event."""
    return Program.load("floor", (f"SIZE={_size(subject, probe)}", f"{subject.event}=1"))


def _size(subject: Subject, probe: Program) -> int:
    return subject.size or (probe.ring.dtype.itemsize if probe.ring else 0)


def _of(subject: Subject, bench: Bench) -> Iterator[Measurement]:
    name, probe = f"lab {subject.probe}", Program.load(subject.probe)
    floor = floor_of(subject, probe)
    load = bench.times(3, 1)
    turns = {"floor": (floor, load), "probe": (probe, load), "twice": (probe, 2 * load)}

    def taken(turn: str) -> Taken:
        return _taken(turns[turn][0], subject, turns[turn][1])

    found = interleaved(list(turns), bench.times(7, 3), taken)
    of_floor, of_probe = ([it.per_record_ns for it in found[turn]] for turn in ("floor", "probe"))
    yield Measurement(FIGURE, name, "per record of the floor", "ns", of_floor)
    yield Measurement(FIGURE, name, "per record", "ns", of_probe)
    goal = Goal(least=False, value=subject.goal)
    row = Measurement(FIGURE, name, RATIO, "ratio", ratios(of_probe, of_floor), goal=goal)
    yield explained(row, f"records of {_size(subject, probe)} bytes")
    once_ns, twice_ns = ([it.cost.net_ns for it in found[turn]] for turn in ("probe", "twice"))
    yield Measurement(FIGURE, name, "time for twice the events", "ratio", ratios(twice_ns, once_ns))


def _in_between(bench: Bench) -> Measurement:
    """Return the time of `lab duration` for a frame that is neither SYN nor FIN, over that of an empty program."""
    subject = Subject("duration", "AT_FRAME", 0, 3000, 5)
    programs = {"probe": Program.load("duration"), "empty": Program.load("floor", ("EMPTY=1", "AT_FRAME=1"))}

    def per_run(turn: str) -> float:
        return _taken(programs[turn], subject, bench.times(3, 1)).per_run_ns

    found = interleaved(list(programs), bench.times(7, 3), per_run)
    over = [one - other for one, other in zip(found["probe"], found["empty"], strict=True)]
    goal = Goal(least=False, value=subject.goal)
    row = Measurement(FIGURE, "lab duration", "per frame in between, over an empty program", "ns", over, goal=goal)
    with_ns, empty_ns = (float(np.median(found[turn])) for turn in ("probe", "empty"))
    return explained(row, f"a run takes {with_ns:.0f} ns, and one of the empty program {empty_ns:.0f} ns")


def _taken(program: Program, subject: Subject, scale: int) -> Taken:
    """Apply the load and return what the program took of it."""
    # An empty program that hardly runs on this load is not in the cache, and takes several times as long.
    frequent = SEGMENTS if subject.requests else CHANGES
    with topology() as net, counted(frequent) as empty, program.attached(net.devices, Choice(net.inodes)):
        collector = Collector(program.ring) if program.ring else None
        before = read_runs([*program.fds, empty])
        with collector or nullcontext():
            _load(across(net), subject, scale)
            net.quiesce()
        *functions, of_empty = map(since, read_runs([*program.fds, empty]), before)
        records = len(collector.take()) if collector else _events(program, functions)
    return Taken(Cost(functions, of_empty), records)


def _events(program: Program, functions: list[Runs]) -> int:
    """Return the number of events that a program without a ring has handled: what its first programs ran for."""
    return sum(it.number for it, again in zip(functions, program.again, strict=True) if not again)


def _load(place: Place, subject: Subject, scale: int) -> None:
    if subject.connections:
        place.connections(scale * subject.connections)
    if subject.requests:
        place.requests(scale * subject.requests)
