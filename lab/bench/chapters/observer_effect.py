"""Effect of a tool on the observed traffic: connections per second, latency of requests, and bulk.

- Each figure is the ratio to the same load without the tool. The load without runs next to each load with it,
  alternately before and after. 1 is no effect.
- Connections are opened and closed one after the other over a private loopback, as fast as one processor can, with ten
  state changes each. Nothing else takes time, so the tool's cost is fully visible.
- Bulk goes from host to host over veth pairs, the interfaces to which XDP attaches.
- `events lost` is the share of rows that were missing when the tool had caught up.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from lab.bench import interleave, tools
from lab.bench.context import Bench, explained, refused, runnable
from lab.bench.tools import DURATION, NATIVE, PACKETS, STATES
from lab.judging.description import FRAMES, Description
from lab.judging.quantity import Row
from lab.judging.running import Running, Scope, refusal, running_idle
from lab.network.topology import topology
from lab.results.measurement import Goal, Measurement
from lab.traffic.load_generator import CHANGES_EACH, PORT, Place, across, loopback

FIGURE = "observer effect"
_LEAST = 0.9
_GOALS = {
    **{(f"lab {probe}", "connections"): 0.95 for probe in ("states", "duration", "rtt", "flows")},
    ("lab packets", "bulk"): 0.85,
}
_UNITS = {"connections": "1/s", "bulk": "GB/s"}

Values = dict[str, float]
"""Results of one load, by quantity."""


@dataclass
class Pairs:
    """Results with each tool, and the neighbouring results without it, by tool and quantity."""

    with_tool: dict[tuple[Description, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    without: dict[tuple[Description, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(
        self, subjects: Sequence[Description], repetitions: int, load: Callable[[Description | None], Values]
    ) -> None:
        """Measure every tool `repetitions` times, each time next to a load without a tool."""
        for number, tool in enumerate(interleave.order(subjects, repetitions)):
            for subject in (None, tool) if number % 2 else (tool, None):
                for quantity, value in load(subject).items():
                    (self.with_tool if subject else self.without)[tool, quantity].append(value)


def measure(bench: Bench) -> Iterator[Measurement]:
    """Compare every runnable tool with no tool."""
    yield from refused(FIGURE, "connections", "ratio", *tools.KINDS)
    subjects = runnable(*tools.KINDS)
    pairs = of_connections(subjects, bench)
    with topology() as net:

        def bulk(tool: Description | None) -> Values:
            if tool:
                bench.step(f"observer effect, bulk: {tool.name}")
            return _bulk(tool, across(net), bench.times(300_000_000, 50_000_000))

        for tool in tools.of(NATIVE):
            if why := refusal(tool, Scope(net.client.name, "eth0")):
                yield Measurement(FIGURE, tool.name, "bulk", "ratio", refused=why)
            else:
                subjects.append(tool)
        pairs.add(subjects, bench.times(4, 2), bulk)
    yield from rows(pairs)


def of_connections(subjects: Sequence[Description], bench: Bench) -> Pairs:
    """Return the rates of connections and the latencies of requests, with each tool and without."""
    pairs = Pairs()

    def small(tool: Description | None) -> Values:
        if tool:
            bench.step(f"observer effect: {tool.name}")
        return _small(tool, bench.times(10_000, 2000))

    pairs.add(subjects, bench.times(5, 2), small)
    return pairs


def _observing(tool: Description | None, scope: Scope, stack: ExitStack) -> Running | None:
    return stack.enter_context(running_idle(tool, scope)) if tool else None


def _small(tool: Description | None, number: int) -> Values:
    """Send requests, then open connections, over one loopback."""
    with loopback() as place, ExitStack() as stack:
        run = _observing(tool, Scope(place.client), stack)
        each_ns = place.requests(number).each_ns
        load = place.connections(number)
        values = {
            "connections": load.per_second,
            "processor time of a connection": load.busy_ns / number,
            "request latency, p50": float(np.percentile(each_ns, 50)),
            "request latency, p99": float(np.percentile(each_ns, 99)),
        }
        if run and run.tool.kind in (STATES, DURATION):
            run.await_quiet()
            run.end()
            per_connection = CHANGES_EACH if run.tool.kind == STATES else 1 if run.tool.at == FRAMES else 2
            printed = sum(PORT in (row.get("lport"), row.get("rport")) and not _of_listener(row) for row in run.rows())
            # All requests went over one further connection.
            values["events lost"] = max(0.0, 1 - printed / ((number + 1) * per_connection))
    return values


def _of_listener(row: Row) -> bool:
    return row.get("newstate") == "LISTEN" or (row.get("oldstate"), row.get("newstate")) == ("LISTEN", "CLOSE")


def _bulk(tool: Description | None, place: Place, size: int) -> Values:
    with ExitStack() as stack:
        _observing(tool, Scope(place.client, "eth0"), stack)
        return {"bulk": size / place.bulk(size).took_ns}


def rows(pairs: Pairs) -> Iterator[Measurement]:
    """Yield the ratios, and the verdicts of O1 and X2 that follow from them."""
    bare: dict[str, list[float]] = defaultdict(list)
    for (_, quantity), values in pairs.without.items():
        bare[quantity] += values
    for quantity, values in bare.items():
        yield Measurement(FIGURE, "none", f"{quantity}, without", _UNITS.get(quantity, "ns"), values)
    for (tool, quantity), values in pairs.with_tool.items():
        if quantity == "events lost":
            yield Measurement(FIGURE, tool.name, quantity, "fraction", values)
            continue
        least = _GOALS.get((tool.name, quantity))
        goal = Goal(least=True, value=least) if least else None
        ratios = interleave.ratios(values, pairs.without[tool, quantity])
        row = Measurement(FIGURE, tool.name, quantity, "ratio", ratios, goal=goal)
        with_us, without_us = (1e6 / float(np.median(rates)) for rates in (values, pairs.without[tool, quantity]))
        yield explained(row, f"{without_us:.2f} us without the tool, {with_us:.2f} us with it")
        if quantity == "connections":
            yield _verdict("O1", row)
        if quantity == "bulk" and tool.kind in (PACKETS, NATIVE):
            yield _verdict("X2", row)


def _verdict(case: str, row: Measurement) -> Measurement:
    """Return a row of the corpus: wrong if the load's rate is provably below nine tenths of that without the tool."""
    low, high = row.interval
    note = f"wrong if the whole interval is below {_LEAST:.0%} of the rate without the tool: {low:.1%} .. {high:.1%}"
    return Measurement("corpus", row.tool, case, "verdict", [float(high >= _LEAST)], note=note)
