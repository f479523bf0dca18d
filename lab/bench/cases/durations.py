"""Cases of durations (D), and a table that is full (F4)."""

from collections.abc import Callable

from lab.bench.asked import Answer, Asked, ask, asking, lasted, rows_of, to_second_fin
from lab.bench.cases import DELAY, DPORT, MANY, SPORT, Verdicts, wire, with_many
from lab.bench.context import Bench, able
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
    """D1: a first SYN that is lost, which counts. D2: a reset and a refused connection. D3: a half-close."""
    lost = Conditions(delay_ns=DELAY.delay_ns, drop=(1,))
    with wire(lost) as net:
        yield from _lasting("D1", ask(net, able(DURATION), Conversation(), port=DPORT), lasted)
    with wire() as net:
        with asking(net, able(DURATION)) as asked:
            with converse(net, Conversation(how="rst", hold_ns=5 * MS), port=DPORT) as reset:
                pass
            with converse(net, Conversation(), port=DPORT + 1, source_port=SPORT, serve=False) as refused:
                pass
            asked.observed.connections += [*reset.connections, *refused.connections]
        yield from _lasting("D2", asked, lasted)
    with wire() as net:
        half_close = Conversation(how="shutdown", hold_ns=5 * MS, linger_ns=60 * MS)
        yield from _lasting("D3", ask(net, able(DURATION), half_close, port=DPORT), lasted, to_second_fin)


def _lasting(case: str, asked: Asked, *truths: Callable[[Connection, OnWire | None], Bracket]) -> Verdicts:
    """Tell whether each connection was told of, with a duration that is one of those that are true."""
    for tool in able(DURATION):
        right = True
        for connection, its in asked.observed.with_wire():
            told = [row.lasted_ns for row in rows_of(asked.rows[tool], connection.client.flow)][:1]
            true = [Answer("", truth(connection, its), ns, tool.unit_ns).right for truth in truths for ns in told]
            right &= any(true)
        yield case, tool, right


def many_open(_: Bench) -> Verdicts:
    """F4: thousands of connections are open at once; each is told of when it ends, or the tool says how many are missing."""
    for tool in able(DURATION):
        address, rows, missing = with_many(tool)
        told = {row.raddr for row in rows if row.rport == PORT and row.laddr == address}
        yield "F4", tool, len(told) + missing >= MANY


CASES = (ends, many_open)
