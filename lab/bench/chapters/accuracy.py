"""How true each tool's numbers are, over a sweep of delays on a wire whose log is the truth.

All tools of a kind watch the same conversations at the same time. `error` is how far a value provably is from the truth, in
nanoseconds or, for packets and bytes, in per cent: 0 inside the bracket. `distance` is that from the best estimate of the truth,
which is as sharp as the bracket is narrow. `right` is the share of values with no error, `told` of those that the tool does not call
unknown. A tool is asked what its users take it for, whatever it calls that: of a connection's duration the truth is from the first
SYN to the first FIN, of an RTT what the wire and the hosts took.
"""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from lab.bench import tools
from lab.bench.asked import Answer, answers, ask
from lab.bench.context import Bench, able, explained, refused, seeing_frames
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
_PORT = 20_996  # nobody else's: peers see the whole machine
_UNITS = {tools.FLOWS: "%"}


def measure(bench: Bench) -> Iterator[Measurement]:
    """Ask every tool about conversations over each delay."""
    conversation = Conversation(exchanges=3, hold_ns=5 * MS, linger_ns=5 * MS)
    for kind in _KINDS:
        p99: dict[Tool, list[float]] = defaultdict(list)
        unit = _UNITS.get(kind, "ns")
        asked_of = seeing_frames(kind) if kind == tools.FLOWS else able(kind)
        yield from refused(FIGURE, f"error of {kind}", unit, kind)
        for delay_ms in _DELAYS_MS[:: bench.times(1, 3)]:
            bench.step(f"accuracy: {kind} over {delay_ms} ms")
            conditions = Conditions(delay_ns=delay_ms * MS)
            with topology(Relay()) as net:
                net.conditions(conditions, conditions)
                number = bench.times(40, 10)
                asked = ask(net, asked_of, conversation, rport=_PORT, port=_PORT, connections=number, concurrency=4)
            for tool in asked_of:
                told = list(answers(tool, asked))
                known = [answer for answer in told if answer.told is not None]
                where = {"delay_ms": delay_ms}
                errors = [_scaled(answer, answer.error, kind) for answer in known]
                distances = [_scaled(answer, answer.distance, kind) for answer in known]
                right = float(np.mean([answer.right for answer in told])) if told else 0.0
                yield Measurement(FIGURE, tool.name, f"error of {kind}", unit, errors, where)
                yield Measurement(FIGURE, tool.name, f"distance of {kind}", unit, distances, where)
                yield Measurement(FIGURE, tool.name, f"right of {kind}", "fraction", [right], where)
                yield Measurement(
                    FIGURE, tool.name, f"told of {kind}", "fraction", [len(known) / max(1, len(told))], where
                )
                if errors:
                    p99[tool].append(float(np.percentile(errors, 99)))
        yield from _p99(p99, kind, unit)


def _scaled(answer: Answer, error: float | None, kind: str) -> float:
    return (error or 0.0) * 100 / answer.truth.best if kind == tools.FLOWS else (error or 0.0)


def _p99(p99: dict[Tool, list[float]], kind: str, unit: str) -> Iterator[Measurement]:
    """Yield each tool's errors that one in a hundred exceeds, a sample a delay; ours are to be smaller than the best peer's."""
    peers = {tool: float(np.median(values)) for tool, values in p99.items() if not tool.ours}
    best = min(peers, key=lambda tool: peers[tool], default=None)
    for tool, values in p99.items():
        goal = Goal(least=False, value=peers[best]) if tool.ours and best else None
        note = f"the goal is {best.name}'s" if goal and best else ""
        row = Measurement(FIGURE, tool.name, f"p99 error of {kind}", unit, values, goal=goal, note=note)
        yield explained(row, f"{note}, who has watched the same traffic")
