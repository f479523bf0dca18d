"""Cost of a tool as the numbers of open connections, of peers and flows, and of attached probes grow.

Requests go round-robin over the connections, each to a peer of its own. The cost is the programs' time per event, as in
the chapter on kernel cost. `together` is the rate of connections with several of this project's probes attached, as a
ratio to the rate with none.
"""

from collections.abc import Iterator
from contextlib import ExitStack

from lab.bench import interleave, tools
from lab.bench.context import Bench, runnable
from lab.bench.run_time import Watch, counted
from lab.bench.tools import FLOWS, RTT, SEGMENTS
from lab.judging.description import FRAMES, Description
from lab.judging.running import Scope, running, running_idle
from lab.results.measurement import Measurement
from lab.traffic.load_generator import loopback

FIGURE = "scale"
_CONNECTIONS = (10, 100, 1000, 10_000)


def measure(bench: Bench) -> Iterator[Measurement]:
    """Compare tools that keep state per connection or peer, then this project's probes together."""
    stateful = [tool for tool in runnable(RTT, FLOWS) if tool.ours or tool.at != FRAMES]
    costs: dict[tuple[Description, int], list[float]] = {}
    cases = [(tool, connections) for connections in _CONNECTIONS for tool in stateful]
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
    ours = [tool for tool in runnable(*tools.KINDS) if tool.ours]
    number = bench.times(10_000, 2000)

    def rate(probes: int) -> float:
        bench.step(f"scale: {probes} probes together")
        with loopback() as place, ExitStack() as stack:
            for tool in ours[:probes]:
                stack.enter_context(running_idle(tool, Scope(place.client)))
            return place.connections(number).per_second

    numbers = sorted({0, 1, len(ours) // 2, len(ours)})
    measured = interleave.interleaved(numbers, bench.times(5, 2), rate)
    for probes, values in measured.items():
        if probes:
            names = ", ".join(tool.name.removeprefix("lab ") for tool in ours[:probes])
            ratios = interleave.ratios(values, measured[0])
            yield Measurement(
                FIGURE, "lab (several probes)", "connections, together", "ratio", ratios, {"probes": probes}, note=names
            )
