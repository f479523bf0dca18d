"""Cases of durations (D), and of a full table (F4)."""

from collections.abc import Callable

from lab.bench.answers import Answer, Experiment, rows_of, to_first_end, to_second_fin, watch_conversation, watching
from lab.bench.cases import DELAY, DPORT, MANY, SPORT, Verdicts, wire, with_many
from lab.bench.context import Bench, runnable
from lab.bench.load_generator import PORT
from lab.bench.tools import DURATION
from lab.network.conditions import Conditions
from lab.timeline import Connection
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse
from lab.truth.wire import OnWire
from lab.units import MS
from lab.verdict import Bracket


def ends(_: Bench) -> Verdicts:
    """D1: the first SYN is lost and starts the duration. D2: a reset and a refused connection. D3: a half-close."""
    lost = Conditions(delay_ns=DELAY.delay_ns, drop=(1,))
    with wire(lost) as net:
        yield from _lasting("D1", watch_conversation(net, runnable(DURATION), Conversation(), port=DPORT), to_first_end)
    with wire() as net:
        with watching(net, runnable(DURATION)) as experiment:
            with converse(net, Conversation(how="rst", hold_ns=5 * MS), port=DPORT) as reset:
                pass
            with converse(net, Conversation(), port=DPORT + 1, source_port=SPORT, serve=False) as refused:
                pass
            experiment.observed.connections += [*reset.connections, *refused.connections]
        yield from _lasting("D2", experiment, to_first_end)
    with wire() as net:
        half_close = Conversation(how="shutdown", hold_ns=5 * MS, linger_ns=60 * MS)
        yield from _lasting(
            "D3", watch_conversation(net, runnable(DURATION), half_close, port=DPORT), to_first_end, to_second_fin
        )


def _lasting(case: str, experiment: Experiment, *truths: Callable[[Connection, OnWire | None], Bracket]) -> Verdicts:
    """Check that each tool has a row for every connection, with a duration inside one of the true brackets."""
    for tool in runnable(DURATION):
        correct = True
        for connection, on_wire in experiment.observed.with_wire():
            mine = rows_of(experiment.rows[tool], connection.client.flow)
            brackets = [truth(connection, on_wire) for truth in truths]
            correct &= bool(mine) and any(
                Answer("", bracket, mine[0].duration_ns, tool.unit_ns).correct for bracket in brackets
            )
        yield case, tool, correct


def many_open(_: Bench) -> Verdicts:
    """F4: thousands of connections are open at once. The tool reports each at its end, or the number of lost ones."""
    for tool in runnable(DURATION):
        address, rows, missing = with_many(tool)
        reported = {row.raddr for row in rows if row.rport == PORT and row.laddr == address}
        yield "F4", tool, len(reported) + missing >= MANY


CASES = (ends, many_open)
