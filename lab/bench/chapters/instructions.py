"""Instructions of each program, executed per run and followed by the verifier: the same on every machine.

On the virtual clock of `lab gate` one instruction takes one nanosecond, so the kernel's run time of a program is its
number of instructions, independent of the host and its load. The cost of the kernel's statistics is measured with an
empty program and subtracted. The load goes over the lab's own wire: connections one after the other, then requests.

The verifier's work is most of the time that a program takes to load. It grows with the paths through the program.
"""

from collections.abc import Iterator

from lab import clock, probes
from lab.bench.context import Bench
from lab.bench.run_time import counted, read_runs, since
from lab.bench.tools import CHANGES
from lab.choice import Choice
from lab.ebpf.program import Program
from lab.linux.bpf import Runs, verified_instructions
from lab.network.topology import topology
from lab.results.measurement import Measurement
from lab.traffic.load_generator import across

FIGURE = "instructions"
UNIT = "instructions"
VERIFIED = "verified to load"
_REAL = "the clock is real here: make bench-gate counts instructions, in a virtual machine"
_CONNECTIONS, _REQUESTS = 20, 50


def measure(bench: Bench) -> Iterator[Measurement]:
    """Yield a row per function of each probe."""
    for name in probes.here():
        if clock.of_guest() != clock.VIRTUAL:
            yield Measurement(FIGURE, f"lab {name}", "per run", UNIT, refused=_REAL)
            continue
        bench.step(f"instructions: lab {name}")
        program = Program.load(name)
        for function, fd in zip(program.functions, program.fds, strict=True):
            if number := verified_instructions(fd):
                yield Measurement(FIGURE, f"lab {name}", f"{VERIFIED} {function}", UNIT, [number])
        for function, samples in _taken(program, bench.times(3, 1)).items():
            yield Measurement(FIGURE, f"lab {name}", f"per run of {function}", UNIT, samples)


def _taken(program: Program, repetitions: int) -> dict[str, list[float]]:
    """Apply the load `repetitions` times. Return the mean per program run of each repetition, by function."""
    found: dict[str, list[float]] = {}
    for _ in range(repetitions):
        with topology() as net, counted(CHANGES) as empty, program.attached(net.devices, Choice(net.inodes)):
            before = read_runs([*program.fds, empty])
            place = across(net)
            place.connections(_CONNECTIONS)
            place.requests(_REQUESTS)
            net.quiesce()
            *means, of_empty = map(_mean, map(since, read_runs([*program.fds, empty]), before))
        for function, mean in zip(program.functions, means, strict=True):
            if mean is not None and of_empty is not None:
                found.setdefault(function, []).append(mean - of_empty)
    return found


def _mean(runs: Runs) -> float | None:
    """Return the mean time of a program run, None without runs."""
    return runs.time_ns / runs.number if runs.number else None
