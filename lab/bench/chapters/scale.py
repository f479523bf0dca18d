"""Cost of a tool as the numbers of open connections, of processors and of attached probes grow.

- *Connections*: requests go round-robin over the connections, each to a peer and a flow of its own. `kernel cost per
  event` is the programs' time, as in the chapter on kernel cost, of the tools that keep something in the kernel. `kernel
  maps` and `user space` are the tool's memory; resident memory is at its peak and includes the mapped ring. `power`: the
  cost grows with this power of the number of connections, by least squares over their logarithms; 0 is a constant cost.
- *Processors*: each processor runs the program on a frame as fast as it can (BPF_PROG_TEST_RUN), at the same time as the
  others. The frames are of one flow: the worst case of a shared map. The floor only submits a record to the ring.
- *Together*: the rate of connections with one probe attached, and with all in one process as in a recording, as a ratio to
  the rate without. The floor of a probe submits records of the same size for the same event, and does nothing else
  (lab/bench/chapters/floor.py).
"""

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import IPv4Address
from multiprocessing.connection import Connection

import numpy as np

from lab import probes
from lab.bench import interleave
from lab.bench.chapters import floor
from lab.bench.context import Bench, explained, runnable
from lab.bench.forked import forked, pipe
from lab.bench.producer import syn
from lab.bench.run_time import Watch, counted
from lab.bench.tools import DURATION, FLOWS, RTT, SEGMENTS, STATES
from lab.choice import Choice
from lab.ebpf.interface import Device
from lab.ebpf.program import Program
from lab.judging.description import FRAMES, Description
from lab.judging.running import Scope, running
from lab.linux import bpf, process
from lab.linux.netns import inode_of
from lab.live.collector import Collector
from lab.results.measurement import Goal, Measurement
from lab.traffic.load_generator import Place, loopback

FIGURE = "scale"
_CONNECTIONS = (10, 100, 1000, 10_000, 100_000)
_OF_ONE_PROCESS = 10_000
"""Connections of one load generator: the number of a process's open files is limited."""
_PORTS = 1000
"""The first port of the servers of several generators: below the ports of clients."""
_REPEATED = 50_000
"""Runs of a program by one processor: the records of all fit in the ring."""
_COST, _MAPS, _MEMORY = "kernel cost per event", "kernel maps", "user space"
_UNITS = {_COST: "ns", _MAPS: "MB", _MEMORY: "MB"}
_EVERY = "all"
_ALL = Goal(least=True, value=0.75)


def measure(bench: Bench) -> Iterator[Measurement]:
    """Compare tools over numbers of connections, then this project's programs over processors, and together."""
    yield from _over_connections(bench)
    yield from _over_processors(bench)
    yield from _together(bench)


def _over_connections(bench: Bench) -> Iterator[Measurement]:
    tools = [tool for tool in runnable(STATES, DURATION, RTT, FLOWS) if tool.ours or tool.at == SEGMENTS]
    numbers = _CONNECTIONS[: bench.times(len(_CONNECTIONS), 3)]
    samples: dict[tuple[Description, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for tool, connections in interleave.order([(it, n) for n in numbers for it in tools], bench.times(2, 1)):
        bench.step(f"scale: {tool.name}, {connections:,} connections")
        for quantity, value in _with_connections(tool, connections, bench.times(10_000, 2000)).items():
            samples[tool, quantity][connections].append(value)
    for (tool, quantity), found in samples.items():
        for connections, values in found.items():
            yield Measurement(FIGURE, tool.name, quantity, _UNITS[quantity], values, {"connections": connections})
        if quantity == _COST:
            powers = [_power(dict(zip(found, turn, strict=True))) for turn in zip(*found.values(), strict=True)]
            yield Measurement(FIGURE, tool.name, f"power of the {quantity} in connections", "", powers)


def _with_connections(tool: Description, connections: int, least: int) -> dict[str, float]:
    """Return what a tool costs while a number of connections is open, by quantity."""
    with (
        loopback() as place,
        counted(SEGMENTS if tool.at == FRAMES else tool.at) as empty,
        running(tool, Scope(place.client)) as run,
    ):
        watch = Watch(run.pid, empty)
        _requests(place, max(least, connections), connections)
        cost = watch.cost()
        events = cost.most_runs if tool.at == FRAMES else cost.empty.number
        members = process.family(run.pid)
        # Programs that keep nothing in the kernel cost the same for every connection.
        kept = {_COST: cost.net_ns / events} if tool.kind in (RTT, FLOWS) else {}
        return {
            **kept,
            _MAPS: sum(map(bpf.map_bytes_of_process, members)) / 1e6,
            _MEMORY: process.family_memory(run.pid, "VmHWM") / 1e6,
        }


def _requests(place: Place, number: int, connections: int) -> None:
    """Send requests round-robin over connections, by as many load generators as have room for them, at a time."""
    generators = -(-connections // _OF_ONE_PROCESS)
    each = connections // generators

    def send(generator: int) -> None:
        address = str(IPv4Address(place.address) + generator * each)
        replace(place, address=address, port=_PORTS + generator).requests(number // generators, each, each)

    with ThreadPoolExecutor(generators) as pool:
        list(pool.map(send, range(generators)))


def _power(costs: dict[int, float]) -> float:
    """Return by which power of the number a cost grows."""
    return float(np.polyfit(np.log(list(costs)), np.log(list(costs.values())), 1)[0])


def _over_processors(bench: Bench) -> Iterator[Measurement]:
    programs = {
        "lab (floor)": Program.load("floor", ("AT_FRAME=1",)),
        **{f"lab {probe}": Program.load(probe) for probe in ("duration", "packets", "flows")},
    }
    cpus = sorted(os.sched_getaffinity(0))
    cases = [(name, number) for name in programs for number in range(1, len(cpus) + 1)]

    def each_ns(case: tuple[str, int]) -> float:
        name, number = case
        bench.step(f"scale: {name}, {number} processors")
        return _on_processors(programs[name], cpus[:number])

    measured = interleave.interleaved(cases, bench.times(9, 3), each_ns)
    for (name, number), values in measured.items():
        conditions = {"processors": number}
        yield Measurement(FIGURE, name, "per run, on each", "ns", values, conditions)
        if number > 1:
            growth = interleave.ratios(values, measured[name, 1])
            yield Measurement(FIGURE, name, "per run, on each, to one processor", "ratio", growth, conditions)


def _on_processors(program: Program, cpus: list[int]) -> float:
    """Return the mean time of a run while all of these processors run a program, in nanoseconds."""
    if program.ring:
        program.ring.drain()
    ends: list[Connection] = []
    for cpu in cpus:
        ours, theirs = pipe()
        forked(_repeat, program.fds[-1], cpu, theirs)
        ends.append(ours)
    for end in ends:  # each is on its processor
        end.recv()
    for end in ends:
        end.send(None)
    return float(np.mean([end.recv() for end in ends]))


def _repeat(fd: int, cpu: int, end: Connection) -> None:
    os.sched_setaffinity(0, {cpu})
    frame = syn()
    end.send(None)
    end.recv()
    begin_ns = time.perf_counter_ns()
    bpf.prog_test_run(fd, frame, repeat=_REPEATED)
    end.send((time.perf_counter_ns() - begin_ns) / _REPEATED)


def _together(bench: Bench) -> Iterator[Measurement]:
    subjects = [it for it in floor.SUBJECTS if not probes.refusal(it.probe)]
    loaded = [Program.load(it.probe) for it in subjects]
    floors = [floor.floor_of(subject, probe) for subject, probe in zip(subjects, loaded, strict=True)]
    cases: dict[tuple[str, str], list[Program]] = {("none", ""): []}
    for number, subject in enumerate(subjects):
        cases |= {(subject.probe, "probe"): [loaded[number]], (subject.probe, "floor"): [floors[number]]}
    cases |= {(_EVERY, "probe"): loaded, (_EVERY, "floor"): floors}

    def rate(case: tuple[str, str]) -> float:
        bench.step(f"scale, together: {' '.join(case)}")
        with loopback() as place, ExitStack() as stack:
            device = Device.find("lo", place.client)
            for program in cases[case]:
                stack.enter_context(program.attached([device], Choice([inode_of(place.client)])))
                if program.ring:
                    stack.enter_context(Collector(program.ring))
                if program.has_totals:
                    stack.callback(program.take_totals)
            return place.connections(bench.times(10_000, 2000)).per_second

    measured = interleave.interleaved(list(cases), bench.times(7, 3), rate)
    without = measured.pop(("none", ""))
    for (what, kind), rates in measured.items():
        ratios = interleave.ratios(rates, without)
        goal = _ALL if (what, kind) == (_EVERY, "probe") else None
        row = Measurement(FIGURE, f"lab {what} ({kind})", "connections", "ratio", ratios, goal=goal)
        of_floor = float(np.median(interleave.ratios(measured[what, "floor"], without)))
        yield explained(row, f"the floors of the same probes keep {of_floor:.2f}")
