"""Accuracy of each tool over a sweep of delays. The wire's log is the reference.

All tools of a kind watch the same conversations at the same time. Errors are in nanoseconds, or in per cent for packets
and bytes.

- `error`: distance from the interval of the truth, 0 inside.
- `distance`: distance from the best estimate of the truth, which is as precise as the interval is narrow.
- `right`: share of values without an error.
- `told`: share of values that the tool tells. The rest is missing, or the tool says that it is unknown.

A tool is judged by its own definition, as `lab judge` does.
"""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from lab.bench import tools
from lab.bench.context import Bench, explained, frame_tools, refused, runnable
from lab.judging import judgement
from lab.judging.case import Case
from lab.judging.cases import connections
from lab.judging.description import Description
from lab.judging.finding import Finding, Verdict
from lab.judging.happened import Happened
from lab.judging.stage import Stage
from lab.network.conditions import Conditions
from lab.results.measurement import Goal, Measurement
from lab.traffic.demo.conversation import Conversation
from lab.units import MS

FIGURE = "accuracy"
_KINDS = (tools.STATES, tools.DURATION, tools.RTT, tools.FLOWS)
_DELAYS_MS = (0, 1, 5, 20)
_UNITS = {tools.FLOWS: "%"}
_ABOUT = (
    "time in SYN",
    "time in ESTABLISHED",
    "time in FIN",
    "time in CLOSE",
    "time in LAST",
    "from ",
    "mean RTT",
    "RTT",
    "packets",
    "bytes",
)
_CASE = Case("accuracy", (*_KINDS, "rtt-histogram"), connections.ordinary, _ABOUT)


def measure(bench: Bench) -> Iterator[Measurement]:
    """Compare every tool with the truth over each delay."""
    for kind in _KINDS:
        p99: dict[Description, list[float]] = defaultdict(list)
        unit = _UNITS.get(kind, "ns")
        asked_tools = frame_tools(kind) if kind == tools.FLOWS else runnable(kind)
        yield from refused(FIGURE, f"error of {kind}", unit, kind)
        for delay_ms in _DELAYS_MS[:: bench.times(1, 3)]:
            bench.step(f"accuracy: {kind} over {delay_ms} ms")
            stage = Stage(asked_tools, quick=bench.quick, step=bench.step)
            happened = _conversations(stage, delay_ms, bench.times(40, 10))
            for tool in asked_tools:
                findings = judgement.findings(_CASE, tool, happened, stage.printed[tool])
                known = [it for it in findings if it.told is not None and it.best is not None]
                where = {"delay_ms": delay_ms}
                errors = [_scaled(it, it.distance, kind) for it in known]
                distances = [_scaled(it, it.off or 0, kind) for it in known]
                right = (
                    float(np.mean([it.verdict in (Verdict.RIGHT, Verdict.UNKNOWN) for it in findings]))
                    if findings
                    else 0.0
                )
                yield Measurement(FIGURE, tool.name, f"error of {kind}", unit, errors, where)
                yield Measurement(FIGURE, tool.name, f"distance of {kind}", unit, distances, where)
                yield Measurement(FIGURE, tool.name, f"right of {kind}", "fraction", [right], where)
                yield Measurement(
                    FIGURE, tool.name, f"told of {kind}", "fraction", [len(known) / max(1, len(findings))], where
                )
                if errors:
                    p99[tool].append(float(np.percentile(errors, 99)))
        yield from _p99(p99, kind, unit)


def _conversations(stage: Stage, delay_ms: int, number: int) -> Happened:
    conditions = Conditions(delay_ns=delay_ms * MS)
    with connections.wire(conditions, conditions) as net:
        conversation = Conversation(exchanges=3, hold_ns=5 * MS, linger_ns=5 * MS)
        happened = stage.happened("accuracy", net, stage.converse(net, conversation, connections=number, concurrency=4))
    happened.server = happened.server[:1]
    return happened


def _scaled(finding: Finding, error: float, kind: str) -> float:
    return error * 100 / (finding.best or 1) if kind == tools.FLOWS else float(error)


def _p99(p99: dict[Description, list[float]], kind: str, unit: str) -> Iterator[Measurement]:
    """Yield each tool's 99th percentile of the error, one sample per delay. The goal is the lowest median of a peer."""
    peers = {tool: float(np.median(values)) for tool, values in p99.items() if not tool.ours}
    best = min(peers, key=lambda tool: peers[tool], default=None)
    for tool, values in p99.items():
        goal = Goal(least=False, value=peers[best]) if tool.ours and best else None
        note = f"the goal is {best.name}'s" if goal and best else ""
        row = Measurement(FIGURE, tool.name, f"p99 error of {kind}", unit, values, goal=goal, note=note)
        yield explained(row, f"{note}, which watched the same traffic")
