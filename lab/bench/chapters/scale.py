"""What a tool costs as there is more of everything: connections that are open, peers and flows to tell apart, probes at once.

Requests go round so many connections, each to a peer of its own; the cost is that of the tool's programs for each of its events, as
in the chapter on kernel cost. `together` is the pace of connections with so many of this project's probes attached at once.
"""

from collections.abc import Iterator
from contextlib import ExitStack

from lab.bench import interleave, tools
from lab.bench.context import Bench, able
from lab.bench.load_generator import loopback
from lab.bench.run_time import Watch, counted
from lab.bench.tools import FLOWS, FRAMES, RTT, SEGMENTS, Scope, Tool, at_rest, running
from lab.results.measurement import Measurement

FIGURE = "scale"
_CONNECTIONS = (10, 100, 1000, 10_000)


def measure(bench: Bench) -> Iterator[Measurement]:
    """Compare tools that keep something for each connection or peer, then all of ours together."""
    kept = [tool for tool in able(RTT, FLOWS) if tool.ours or tool.at != FRAMES]
    costs: dict[tuple[Tool, int], list[float]] = {}
    cases = [(tool, connections) for connections in _CONNECTIONS for tool in kept]
    for tool, connections in interleave.order(cases, bench.times(2, 1)):
        bench.step(f"scale: {tool.name}, {connections} connections")
        with loopback() as place, counted(SEGMENTS) as empty, running(tool, Scope(place.client)) as run:
            watch = Watch(run.pid, empty)
            place.requests(max(2 * connections, bench.times(10_000, 2000)), connections, connections)
            cost = watch.cost()
            events = cost.most_runs if tool.at == FRAMES else cost.empty.number
        costs.setdefault((tool, connections), []).append(cost.net_ns / events)
    for (tool, connections), values in costs.items():
        yield Measurement(FIGURE, tool.name, "kernel cost per event", "ns", values, {"connections": connections})
    yield from _together(bench)


def _together(bench: Bench) -> Iterator[Measurement]:
    ours = [tool for tool in able(*tools.KINDS) if tool.ours]
    number = bench.times(10_000, 2000)

    def pace(probes: int) -> float:
        bench.step(f"scale: {probes} probes together")
        with loopback() as place, ExitStack() as stack:
            for tool in ours[:probes]:
                stack.enter_context(at_rest(tool, Scope(place.client)))
            return place.connections(number).per_second

    # None, one, half of them, all.
    numbers = sorted({0, 1, len(ours) // 2, len(ours)})
    measured = interleave.interleaved(numbers, bench.times(5, 2), pace)
    for probes, values in measured.items():
        if probes:
            names = ", ".join(tool.name.removeprefix("lab ") for tool in ours[:probes])
            ratios = interleave.ratios(values, measured[0])
            yield Measurement(
                FIGURE, "lab (several probes)", "connections, together", "ratio", ratios, {"probes": probes}, note=names
            )
