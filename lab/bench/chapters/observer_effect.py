"""What a tool does to what it observes: connections per second, latency of requests, and bulk, with it and without, in turns.

Each figure is a ratio to the same load without the tool, which stands beside it, before or after in turns: 1 is no effect.
Connections are opened and closed one after the other over a loopback of their own, as fast as one processor can, ten changes of
state each: nothing hides what a tool adds. Bulk goes from host to host over a veth pair each, since that is where XDP is attached.
`events lost` are those of the tool's rows that were missing when it had caught up.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from lab.bench import interleave, tools
from lab.bench.context import Bench, able, explained, refused
from lab.bench.load_generator import CHANGES_EACH, PORT, Place, across, loopback
from lab.bench.tools import (
    DURATION,
    NATIVE,
    PACKETS,
    STATES,
    LifeRow,
    Running,
    Scope,
    StateRow,
    Tool,
    at_rest,
)
from lab.network.topology import topology
from lab.results.measurement import Goal, Measurement

FIGURE = "observer effect"
_LEAST = 0.9
_UNITS = {"connections": "1/s", "bulk": "GB/s"}

Values = dict[str, float]
"""What one turn has measured, by quantity."""


@dataclass
class Pairs:
    """What was measured with each tool and, beside that, without it, by tool and quantity."""

    with_tool: dict[tuple[Tool, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    without: dict[tuple[Tool, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, tools_in_turn: Sequence[Tool], repetitions: int, load: Callable[[Tool | None], Values]) -> None:
        """Measure every tool so many times, each time beside none."""
        for number, tool in enumerate(interleave.order(tools_in_turn, repetitions)):
            for subject in (None, tool) if number % 2 else (tool, None):
                for quantity, value in load(subject).items():
                    (self.with_tool if subject else self.without)[tool, quantity].append(value)


def measure(bench: Bench) -> Iterator[Measurement]:
    """Compare every tool that can run with none."""
    yield from refused(FIGURE, "connections", "ratio", *tools.KINDS)
    pairs, subjects = Pairs(), able(*tools.KINDS)

    def small(tool: Tool | None) -> Values:
        if tool:
            bench.step(f"observer effect: {tool.name}")
        return _small(tool, bench.times(10_000, 2000))

    pairs.add(subjects, bench.times(5, 2), small)
    with topology() as net:

        def bulk(tool: Tool | None) -> Values:
            if tool:
                bench.step(f"observer effect, bulk: {tool.name}")
            return _bulk(tool, across(net), bench.times(300_000_000, 50_000_000))

        for tool in tools.of(NATIVE):
            if why := tools.refusal(tool, Scope(net.client.name, "eth0")):
                yield Measurement(FIGURE, tool.name, "bulk", "ratio", refused=why)
            else:
                subjects.append(tool)
        pairs.add(subjects, bench.times(4, 2), bulk)
    yield from rows(pairs)


def _observing(tool: Tool | None, scope: Scope, stack: ExitStack) -> Running | None:
    return stack.enter_context(at_rest(tool, scope)) if tool else None


def _small(tool: Tool | None, number: int) -> Values:
    """Make requests, then connections, over one loopback."""
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
            per_connection = CHANGES_EACH if run.tool.kind == STATES else 1 if run.tool.at == tools.FRAMES else 2
            told = sum(PORT in (row.lport, row.rport) and not _is_listeners(row) for row in run.rows())
            # The requests' one connection is told as well.
            values["events lost"] = max(0.0, 1 - told / ((number + 1) * per_connection))
    return values


def _is_listeners(row: StateRow | LifeRow) -> bool:
    return isinstance(row, StateRow) and (
        row.newstate == "LISTEN" or (row.oldstate, row.newstate) == ("LISTEN", "CLOSE")
    )


def _bulk(tool: Tool | None, place: Place, size: int) -> Values:
    with ExitStack() as stack:
        _observing(tool, Scope(place.client, "eth0"), stack)
        return {"bulk": size / place.bulk(size).took_ns}


def rows(pairs: Pairs) -> Iterator[Measurement]:
    """Yield the ratios of what was measured, and the verdicts of O1 and X2 that follow from them."""
    bare: dict[str, list[float]] = defaultdict(list)
    for (_, quantity), values in pairs.without.items():
        bare[quantity] += values
    for quantity, values in bare.items():
        yield Measurement(FIGURE, "none", f"{quantity}, without", _UNITS.get(quantity, "ns"), values)
    for (tool, quantity), values in pairs.with_tool.items():
        if quantity == "events lost":
            yield Measurement(FIGURE, tool.name, quantity, "fraction", values)
            continue
        goal = Goal(least=True, value=_LEAST) if (tool.name, quantity) == ("lab states", "connections") else None
        ratios = interleave.ratios(values, pairs.without[tool, quantity])
        row = Measurement(FIGURE, tool.name, quantity, "ratio", ratios, goal=goal)
        with_us, without_us = (1e6 / float(np.median(them)) for them in (values, pairs.without[tool, quantity]))
        yield explained(row, f"what takes {without_us:.2f} us without it takes {with_us:.2f} us with it")
        if quantity == "connections":
            yield _seen("O1", row)
        if quantity == "bulk" and tool.kind in (PACKETS, NATIVE):
            yield _seen("X2", row)


def _seen(case: str, row: Measurement) -> Measurement:
    """Return a row of the corpus: wrong where the load provably keeps less than nine tenths of its pace."""
    low, high = row.interval
    note = f"wrong when all of the interval is below {_LEAST:.0%} of the pace without it: {low:.1%} .. {high:.1%}"
    return Measurement("corpus", row.tool, case, "verdict", [float(high >= _LEAST)], note=note)
