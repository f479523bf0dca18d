"""What each program takes of a processor, in instructions: the same number in every run, wherever that is.

Where a guest's time is counted instructions (`lab gate`), the kernel's count of a program's run time is one of instructions, and
neither this machine nor what else it does is in it. An empty program tells what counting takes, which is taken off. The load is the
same each time, over the lab's own wire: connections one after the other, then requests.
"""

from collections.abc import Iterator

from lab import clock, probes
from lab.bench.context import Bench
from lab.bench.load_generator import across
from lab.bench.run_time import counted, since
from lab.bench.tools import CHANGES
from lab.ebpf.program import Program
from lab.linux import bpf
from lab.linux.bpf import Runs
from lab.network.topology import topology
from lab.results.measurement import Measurement

FIGURE = "instructions"
UNIT = "instructions"
_REAL = "time is real here: make bench-gate counts instructions, in a virtual machine"
_CONNECTIONS, _REQUESTS = 20, 50


def measure(bench: Bench) -> Iterator[Measurement]:
    """Yield a row for each function of each probe."""
    for name in probes.here():
        if clock.of_guest() != clock.VIRTUAL:
            yield Measurement(FIGURE, f"lab {name}", "per run", UNIT, refused=_REAL)
            continue
        bench.step(f"instructions: lab {name}")
        for function, samples in _taken(Program.load(name), bench.times(3, 1)).items():
            yield Measurement(FIGURE, f"lab {name}", f"per run of {function}", UNIT, samples)


def _taken(program: Program, repetitions: int) -> dict[str, list[float]]:
    """Apply the load so often; returns the mean of each function's runs, by its attach point and role."""
    found: dict[str, list[float]] = {}
    for _ in range(repetitions):
        with topology() as net, counted(CHANGES) as empty, program.attached(net.devices, net.inodes):
            before = _read([*program.fds, empty])
            place = across(net)
            place.connections(_CONNECTIONS)
            place.requests(_REQUESTS)
            net.quiesce()
            *runs, idle = map(_mean, map(since, _read([*program.fds, empty]), before))
        for function, mean in zip(program.functions, runs, strict=True):
            if mean is not None and idle is not None:
                found.setdefault(function, []).append(mean - idle)
    return found


def _read(fds: list[int]) -> list[Runs]:
    return [bpf.prog_runs(fd) for fd in fds]


def _mean(runs: Runs) -> float | None:
    """Return the time of a run, None when there was none."""
    return runs.time_ns / runs.number if runs.number else None
