"""What each tool costs the kernel: nanoseconds that its programs run, by the kernel's own count.

An event is what a tool's program runs for: a change of a socket's state, a segment that a socket in ESTABLISHED receives, or a frame
at the interface. Per connection (or per request) tools with different events can be compared. Waking the reader up, which many tools
do for each event, happens inside the program and is in its time. Counting costs some 40 ns a run itself: an empty program, attached
to the same tracepoint in the same turn, tells how much, and that is taken off. What the kernel spends elsewhere on a tool, on reading
frames into a capture for example, is in no program's time: the observer effect shows it.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np

from lab.bench import interleave, tools
from lab.bench.context import Bench, able, explained, refused
from lab.bench.load_generator import loopback
from lab.bench.run_time import Cost, Watch, counted
from lab.bench.tools import CHANGES, FRAMES, RTT, SEGMENTS, Scope, Tool, running
from lab.results.measurement import Goal, Measurement

FIGURE = "kernel cost"
_GOALS = {"lab states": 100.0, "lab rtt": 100.0, "lab duration": 100.0}
_COMPARED = ("per connection", "per request")  # an event is another one for another tool
_COUNTING = "of counting, per run"
_OF_PROGRAM = "per event, of its "
_TOLD_NS = 0.5  # less is nothing that a reason would name
_WITHOUT_PROGRAM = "it has no BPF program of its own but a filter, whose runs the kernel does not count"


def measure(bench: Bench) -> Iterator[Measurement]:
    """Compare tools by the same load: connections, and for those that look at segments requests."""
    yield from refused(FIGURE, "per event", "ns", *tools.KINDS)
    watched = [tool for tool in able(*tools.KINDS) if tool.ours or tool.at != FRAMES]
    for tool in able(*tools.KINDS):
        if tool not in watched:
            yield Measurement(FIGURE, tool.name, "per event", "ns", refused=_WITHOUT_PROGRAM)
    samples: dict[tuple[Tool, str], list[float]] = defaultdict(list)
    counting: dict[str, list[float]] = defaultdict(list)
    number = bench.times(5000, 1500)
    for tool in interleave.order(watched, bench.times(5, 2)):
        bench.step(f"kernel cost: {tool.name}")
        event = SEGMENTS if tool.kind == RTT else CHANGES
        with loopback() as place, counted(event) as empty, running(tool, Scope(place.client)) as run:
            watch = Watch(run.pid, empty)
            if tool.kind == RTT:
                place.requests(number, 10)
            else:
                place.connections(number)
            cost = watch.cost()
        events = cost.empty.number if tool.at != FRAMES else cost.most_runs
        samples[tool, "per event"].append(cost.net_ns / events)
        samples[tool, "per request" if tool.kind == RTT else "per connection"].append(cost.net_ns / number)
        counting[event].append(cost.counting_ns)
        for name, net_ns in _by_name(cost):
            samples[tool, _OF_PROGRAM + name].append(net_ns / events)
    for event, values in counting.items():
        yield Measurement(FIGURE, "none", _COUNTING, "ns", values, _conditions(event))
    best = _best_peers(samples)
    for (tool, quantity), values in samples.items():
        goal = Goal(least=False, value=_GOALS[tool.name]) if quantity == "per event" and tool.name in _GOALS else None
        row = Measurement(FIGURE, tool.name, quantity, "ns", values, _conditions(tool.at), goal)
        peer = best.get((tool.kind, quantity))
        why = _shares(tool, samples)
        if peer and peer.at == tool.at:
            why += f"; {peer.name}, the cheapest peer, {np.median(samples[peer, quantity]):.0f} ns"
        yield explained(row, why)
        if tool.ours and peer and quantity in _COMPARED:
            yield Measurement(
                FIGURE,
                tool.name,
                f"{quantity}, ratio to the cheapest peer ({peer.name})",
                "ratio",
                interleave.ratios(values, samples[peer, quantity]),
                _conditions(tool.at),
                Goal(least=False, value=1) if tool.name in _GOALS else None,
            )


def _shares(tool: Tool, samples: Mapping[tuple[Tool, str], list[float]]) -> str:
    """Say what each of a tool's programs takes for an event, the dearest first."""
    medians = {
        quantity.removeprefix(_OF_PROGRAM): float(np.median(values))
        for (its, quantity), values in samples.items()
        if its == tool and quantity.startswith(_OF_PROGRAM)
    }
    dearest_first = sorted(medians.items(), key=lambda share: -share[1])
    return ", ".join(f"{name} takes {net_ns:.0f} ns" for name, net_ns in dearest_first if net_ns >= _TOLD_NS)


def _by_name(cost: Cost) -> Iterator[tuple[str, float]]:
    """Yield each program's time, of those with one name together."""
    for name in dict.fromkeys(program.name for program in cost.programs if program.number):
        yield name, sum(cost.net_ns_of(program) for program in cost.programs if program.name == name)


def _conditions(event: str) -> dict[str, str]:
    return {"event": {CHANGES: "change of state", SEGMENTS: "segment received", FRAMES: "frame"}[event]}


def _best_peers(samples: dict[tuple[Tool, str], list[float]]) -> dict[tuple[str, str], Tool]:
    """Return the cheapest peer of each kind, by quantity."""
    best: dict[tuple[str, str], Tool] = {}
    for (tool, quantity), values in samples.items():
        if tool.ours:
            continue
        so_far = best.get((tool.kind, quantity))
        if so_far is None or sorted(values) < sorted(samples[so_far, quantity]):
            best[tool.kind, quantity] = tool
    return best
