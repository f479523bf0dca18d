"""Events per second that user space can read, the CPU time per event, and the loss.

- `taken`: rate at which one processor empties a full ring.
- `came` and `lost`, at a rate: a recording while the kernel runs the probe `duration` on a SYN repeatedly. The producer
  has a processor of its own. `lost` is the share of events without room in the ring.
- `processor time per event, printed`: each tool prints its rows to a file while one processor opens connections as fast
  as possible. The rate is not fixed: a tool that wakes up for each event slows the traffic down.
"""

import time
from collections.abc import Iterator

from lab.bench import interleave, tools
from lab.bench.context import Bench, explained, refused, runnable
from lab.bench.producer import produce, producing
from lab.ebpf.program import Program
from lab.judging.running import Scope, running_idle
from lab.linux import process
from lab.recording.recorder import record
from lab.results.measurement import Goal, Measurement
from lab.traffic.load_generator import CHANGES_EACH, PORT, loopback

FIGURE = "events"
_PATH = "lab (recording)"
_FILLING = 50_000
_LOSSLESS = 1_000_000
_TAKEN = 5_000_000.0


def measure(bench: Bench) -> Iterator[Measurement]:
    """Measure recordings, then every tool that prints each state change."""
    program = Program.load("duration")
    bench.step("events: taken from a full ring")
    taken = _taken(program, bench.times(50, 10))
    row = Measurement(FIGURE, _PATH, "taken", "1/s", taken, goal=Goal(least=True, value=_TAKEN))
    yield explained(row, "the time is spent on copying records out of the ring")
    bench.step("events: at rates")
    yield from _at_rates(program, bench)
    yield from refused(FIGURE, "processor time per event", "ns", tools.STATES)
    samples: dict[tuple[str, str, str], list[float]] = {}
    number = bench.times(10_000, 2000)
    for tool in interleave.order(runnable(tools.STATES), bench.times(5, 2)):
        bench.step(f"events: {tool.name}")
        with loopback() as place, running_idle(tool, Scope(place.client)) as run:
            before_ns = process.busy_ns(run.pid)
            load = place.connections(number)
            run.await_quiet()
            used_ns = process.busy_ns(run.pid) - before_ns
            run.end()
            printed = sum(PORT in (row.get("lport"), row.get("rport")) for row in run.rows())
        changes = number * CHANGES_EACH
        for quantity, unit, value in (
            ("processor time per event, printed", "ns", used_ns / changes),
            ("changes of state while it watches", "1/s", changes * 1e9 / load.took_ns),
            ("lost of them", "fraction", max(0.0, 1 - printed / changes)),
        ):
            samples.setdefault((tool.name, quantity, unit), []).append(value)
    for (name, quantity, unit), values in samples.items():
        yield Measurement(FIGURE, name, quantity, unit, values)


def _taken(program: Program, repetitions: int) -> list[float]:
    """Fill and empty the ring repeatedly. Return the events per second of each repetition."""
    ring = program.ring
    if ring is None:
        raise TypeError("the program has no ring")
    ring.drain()
    rates = []
    for _ in range(repetitions):
        produce(program, _FILLING)
        begin_ns = time.perf_counter_ns()
        events = ring.drain()
        rates.append(len(events) * 1e9 / (time.perf_counter_ns() - begin_ns))
    return rates


def _at_rates(program: Program, bench: Bench) -> Iterator[Measurement]:
    """Record at a million events per second, then at doubled rates until events are lost."""
    repetitions, rate = bench.times(5, 2), _LOSSLESS
    best = Measurement(FIGURE, _PATH, "taken without loss", "1/s")
    while True:
        taken, lost, cost_ns = zip(*(_recorded(program, rate) for _ in range(repetitions)), strict=True)
        conditions = {"events asked for, 1/s": rate}
        goal = Goal(least=False, value=0) if rate == _LOSSLESS else None
        row = Measurement(FIGURE, _PATH, "lost", "fraction", list(lost), conditions, goal)
        yield explained(row, "the reader had no processor for longer than the ring has room")
        yield Measurement(FIGURE, _PATH, "came", "1/s", list(taken), conditions)
        yield Measurement(FIGURE, _PATH, "processor time per event", "ns", list(cost_ns), conditions)
        if any(lost) or taken[0] < rate / 2:
            break
        best = Measurement(FIGURE, _PATH, "taken without loss", "1/s", list(taken), conditions)
        rate *= 2
    yield best


def _recorded(program: Program, per_second: int, seconds: float = 0.5) -> tuple[float, float, float]:
    """Record events at a rate. Return events per second, the lost share, and CPU time per event in nanoseconds."""
    with record(programs={"duration": program}, lossy=True) as recorder:
        before_ns, begin_ns = time.process_time_ns(), time.monotonic_ns()
        with producing(program, seconds, per_second):
            pass
        took_ns = time.monotonic_ns() - begin_ns
        used_ns = time.process_time_ns() - before_ns
    recorded, lost = len(recorder.recording.events["duration"]), recorder.recording.lost["duration"]
    came = recorded + lost
    return came * 1e9 / took_ns, lost / max(1, came), used_ns / max(1, recorded)
