"""What a tool does to what it observes: connections per second, latency of requests, and bulk, with it and without, in turns.

Each figure is a ratio to the same load without the tool in the same repetition: 1 is no effect. Connections are opened and closed
one after the other over a loopback of their own, as fast as one processor can, ten changes of state each: nothing hides what a tool
adds. Bulk goes from host to host over a veth pair each, since that is where XDP is attached. `events lost` are those of the tool's
rows that were missing when it had caught up.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np

from lab.bench import tools, turns
from lab.bench.chapters import Bench, able, explained, refused
from lab.bench.load_generator import CHANGES_EACH, PORT, Place, across, loopback
from lab.bench.measurement import Goal, Measurement
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
    running,
)
from lab.topology import topology

FIGURE = "observer effect"
_LEAST = 0.9
_UNITS = {"connections": "1/s", "bulk": "GB/s"}

Samples = dict[tuple[str, Tool | None], list[float]]


def measure(bench: Bench) -> Iterator[Measurement]:
    """Compare every tool that can run with none."""
    yield from refused(FIGURE, "connections", "ratio", *tools.KINDS)
    samples: Samples = defaultdict(list)
    subjects = [None, *able(*tools.KINDS)]
    for tool in turns.order(subjects, bench.times(7, 3)):
        bench.step(f"observer effect: {tool.name if tool else 'none'}")
        _small(tool, bench.times(10_000, 2000), samples)
    with topology() as net:
        for tool in turns.order([*subjects, *tools.of(NATIVE)], bench.times(5, 3)):
            bench.step(f"observer effect, bulk: {tool.name if tool else 'none'}")
            _bulk(tool, across(net), bench.times(300_000_000, 50_000_000), samples)
    yield from _rows(samples)


def _observing(tool: Tool | None, scope: Scope, stack: ExitStack) -> Running | None:
    return stack.enter_context(running(tool, scope)) if tool else None


def _small(tool: Tool | None, number: int, samples: Samples) -> None:
    """Make requests, then connections, over one loopback."""
    with loopback() as place, ExitStack() as stack:
        run = _observing(tool, Scope(place.client), stack)
        each_ns = place.requests(number).each_ns
        load = place.connections(number)
        if run and run.tool.kind in (STATES, DURATION):
            run.await_quiet()
            run.end()
            per_connection = CHANGES_EACH if run.tool.kind == STATES else 1 if run.tool.at == tools.FRAMES else 2
            told = sum(PORT in (row.lport, row.rport) and not _is_listeners(row) for row in run.rows())
            # The requests' one connection is told as well.
            samples["events lost", tool].append(max(0.0, 1 - told / ((number + 1) * per_connection)))
    samples["connections", tool].append(load.per_second)
    samples["processor time of a connection", tool].append(load.busy_ns / number)
    for percent in (50, 99):
        samples[f"request latency, p{percent}", tool].append(float(np.percentile(each_ns, percent)))


def _is_listeners(row: StateRow | LifeRow) -> bool:
    return isinstance(row, StateRow) and (
        row.newstate == "LISTEN" or (row.oldstate, row.newstate) == ("LISTEN", "CLOSE")
    )


def _bulk(tool: Tool | None, place: Place, size: int, samples: Samples) -> None:
    with ExitStack() as stack:
        _observing(tool, Scope(place.client, "eth0"), stack)
        samples["bulk", tool].append(size / place.bulk(size).took_ns)


def _rows(samples: Samples) -> Iterator[Measurement]:
    for (quantity, tool), values in samples.items():
        if tool is None:
            yield Measurement(FIGURE, "none", f"{quantity}, without", _UNITS.get(quantity, "ns"), values)
            continue
        if quantity == "events lost":
            yield Measurement(FIGURE, tool.name, quantity, "fraction", values)
            continue
        goal = Goal(least=True, value=_LEAST) if (tool.name, quantity) == ("lab states", "connections") else None
        row = Measurement(
            FIGURE, tool.name, quantity, "ratio", turns.ratios(values, samples[quantity, None]), goal=goal
        )
        yield explained(row, "what the programs take is told by the kernel cost; its reader has a processor of its own")
        if quantity == "connections":
            yield _seen("O1", row)
        if quantity == "bulk" and tool.kind in (PACKETS, NATIVE):
            yield _seen("X2", row)


def _seen(case: str, row: Measurement) -> Measurement:
    """Return a row of the corpus: wrong where the load provably keeps less than nine tenths of its pace."""
    low, high = row.interval
    note = f"wrong when all of the interval is below {_LEAST:.0%} of the pace without it: {low:.1%} .. {high:.1%}"
    return Measurement("corpus", row.tool, case, "verdict", [float(high >= _LEAST)], note=note)
