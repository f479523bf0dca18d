"""Run time of each tool's BPF programs, in nanoseconds, by the kernel's statistics.

- An event is a state change of a socket, a segment received by a socket in ESTABLISHED, or a frame at the interface, by
  the tool.
- Compare tools with different events by their costs per connection or per request. The chapter on the floor has the goals
  for the cost of an event.
- Many tools wake up the reader for each event. The wake-up happens inside the program and is part of its time.
- The statistics cost about 40 ns per program run. An empty program at the same tracepoint measures this cost, and it is
  subtracted.
- Other kernel work for a tool, for example copying frames into a capture, is not included. The observer effect shows
  it.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from lab.bench import interleave, tools
from lab.bench.context import Bench, explained, refused, runnable
from lab.bench.run_time import Cost, Watch, counted
from lab.bench.tools import CHANGES, RTT, SEGMENTS
from lab.judging.description import FRAMES, Description
from lab.judging.running import Scope, running
from lab.results.measurement import Goal, Measurement
from lab.traffic.load_generator import loopback

FIGURE = "kernel cost"
_COMPARED = ("per connection", "per request")  # events differ between tools
_COUNTING = "of counting, per run"
_OF_PROGRAM = "per event, of its "
_SHOWN_NS = 0.5  # smaller shares are left out of the note
_WITHOUT_PROGRAM = "it uses a packet filter, not a BPF program: the kernel does not count the runs of a filter"


def measure(bench: Bench) -> Iterator[Measurement]:
    """Compare tools under the same load: requests for RTT tools, connections for the others."""
    yield from refused(FIGURE, "per event", "ns", *tools.KINDS)
    watched = [tool for tool in runnable(*tools.KINDS) if tool.ours or tool.at != FRAMES]
    for tool in runnable(*tools.KINDS):
        if tool not in watched:
            yield Measurement(FIGURE, tool.name, "per event", "ns", refused=_WITHOUT_PROGRAM)
    yield from compared(watched, bench)


def compared(watched: Sequence[Description], bench: Bench) -> Iterator[Measurement]:
    """Yield the costs of tools with BPF programs, and the ratio of this project's to the cheapest peer."""
    samples: dict[tuple[Description, str], list[float]] = defaultdict(list)
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
        events = cost.empty.number if tool.at in (CHANGES, SEGMENTS) else cost.most_runs
        samples[tool, "per event"].append(cost.net_ns / events)
        samples[tool, "per request" if tool.kind == RTT else "per connection"].append(cost.net_ns / number)
        counting[event].append(cost.counting_ns)
        for name, net_ns in _by_name(cost):
            samples[tool, _OF_PROGRAM + name].append(net_ns / events)
    for event, values in counting.items():
        yield Measurement(FIGURE, "none", _COUNTING, "ns", values, _conditions(event))
    best = _best_peers(samples)
    for (tool, quantity), values in samples.items():
        row = Measurement(FIGURE, tool.name, quantity, "ns", values, _conditions(tool.at))
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
                Goal(least=False, value=1),
            )


def _shares(tool: Description, samples: Mapping[tuple[Description, str], list[float]]) -> str:
    """Return the cost per event of each of a tool's programs as text, the most expensive first."""
    medians = {
        quantity.removeprefix(_OF_PROGRAM): float(np.median(values))
        for (its, quantity), values in samples.items()
        if its == tool and quantity.startswith(_OF_PROGRAM)
    }
    shares = sorted(medians.items(), key=lambda share: -share[1])
    return ", ".join(f"{name} takes {net_ns:.0f} ns" for name, net_ns in shares if net_ns >= _SHOWN_NS)


def _by_name(cost: Cost) -> Iterator[tuple[str, float]]:
    """Yield each program's name and time. Programs of the same name are added up."""
    for name in dict.fromkeys(program.name for program in cost.programs if program.number):
        yield name, sum(cost.net_ns_of(program) for program in cost.programs if program.name == name)


def _conditions(event: str) -> dict[str, str]:
    words = {CHANGES: "change of state", SEGMENTS: "segment received", FRAMES: "frame"}
    return {"event": words.get(event, event)}


def _best_peers(samples: dict[tuple[Description, str], list[float]]) -> dict[tuple[str, str], Description]:
    """Return the cheapest peer by kind and quantity."""
    best: dict[tuple[str, str], Description] = {}
    for (tool, quantity), values in samples.items():
        if tool.ours:
            continue
        so_far = best.get((tool.kind, quantity))
        if so_far is None or sorted(values) < sorted(samples[so_far, quantity]):
            best[tool.kind, quantity] = tool
    return best
