"""Accuracy of each tool over a sweep of delays. The wire's log is the reference.

All tools of a kind watch the same conversations at the same time. Errors are in nanoseconds, or in per cent for packets
and bytes.

- `error`: distance from the bracket of the truth, 0 inside.
- `distance`: distance from the best estimate of the truth, which is as precise as the bracket is narrow.
- `right`: share of values without an error.
- `told`: share of values that the tool does not report as unknown.

A tool is judged by the meaning that users give its numbers, not by its own definition. The duration of a connection is
from the first SYN to the first FIN. An RTT is the time that the wire and the hosts took.
"""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from lab.bench import tools
from lab.bench.answers import Answer, answers_of, watch_conversation
from lab.bench.context import Bench, explained, frame_tools, refused, runnable
from lab.bench.tools import Tool
from lab.network.conditions import Conditions
from lab.network.relay import Relay
from lab.network.topology import topology
from lab.results.measurement import Goal, Measurement
from lab.traffic.demo.conversation import Conversation
from lab.units import MS

FIGURE = "accuracy"
_KINDS = (tools.STATES, tools.DURATION, tools.RTT, tools.FLOWS)
_DELAYS_MS = (0, 1, 5, 20)
_PORT = 20_996  # no other traffic uses it: peers observe the whole machine
_UNITS = {tools.FLOWS: "%"}


def measure(bench: Bench) -> Iterator[Measurement]:
    """Compare every tool with the truth over each delay."""
    conversation = Conversation(exchanges=3, hold_ns=5 * MS, linger_ns=5 * MS)
    for kind in _KINDS:
        p99: dict[Tool, list[float]] = defaultdict(list)
        unit = _UNITS.get(kind, "ns")
        asked_tools = frame_tools(kind) if kind == tools.FLOWS else runnable(kind)
        yield from refused(FIGURE, f"error of {kind}", unit, kind)
        for delay_ms in _DELAYS_MS[:: bench.times(1, 3)]:
            bench.step(f"accuracy: {kind} over {delay_ms} ms")
            conditions = Conditions(delay_ns=delay_ms * MS)
            with topology(Relay()) as net:
                net.conditions(conditions, conditions)
                number = bench.times(40, 10)
                experiment = watch_conversation(
                    net, asked_tools, conversation, rport=_PORT, port=_PORT, connections=number, concurrency=4
                )
            for tool in asked_tools:
                answers = list(answers_of(tool, experiment))
                known = [answer for answer in answers if answer.value is not None]
                where = {"delay_ms": delay_ms}
                errors = [_scaled(answer, answer.error, kind) for answer in known]
                distances = [_scaled(answer, answer.distance, kind) for answer in known]
                right = float(np.mean([answer.correct for answer in answers])) if answers else 0.0
                yield Measurement(FIGURE, tool.name, f"error of {kind}", unit, errors, where)
                yield Measurement(FIGURE, tool.name, f"distance of {kind}", unit, distances, where)
                yield Measurement(FIGURE, tool.name, f"right of {kind}", "fraction", [right], where)
                yield Measurement(
                    FIGURE, tool.name, f"told of {kind}", "fraction", [len(known) / max(1, len(answers))], where
                )
                if errors:
                    p99[tool].append(float(np.percentile(errors, 99)))
        yield from _p99(p99, kind, unit)


def _scaled(answer: Answer, error: float | None, kind: str) -> float:
    return (error or 0.0) * 100 / answer.truth.best if kind == tools.FLOWS else (error or 0.0)


def _p99(p99: dict[Tool, list[float]], kind: str, unit: str) -> Iterator[Measurement]:
    """Yield each tool's 99th percentile of the error, one sample per delay. The goal is the lowest median of a peer."""
    peers = {tool: float(np.median(values)) for tool, values in p99.items() if not tool.ours}
    best = min(peers, key=lambda tool: peers[tool], default=None)
    for tool, values in p99.items():
        goal = Goal(least=False, value=peers[best]) if tool.ours and best else None
        note = f"the goal is {best.name}'s" if goal and best else ""
        row = Measurement(FIGURE, tool.name, f"p99 error of {kind}", unit, values, goal=goal, note=note)
        yield explained(row, f"{note}, which watched the same traffic")
