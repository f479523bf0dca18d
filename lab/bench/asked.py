"""Tools asked about traffic whose truth is known: what each has told, and which of it is true.

The truth is that of the scenarios (`lab.truth.states`, `lab.truth.rtt`, the wire's log): a value outside its bracket is
provably wrong. It is the same one for every tool, since all of a kind have watched the same traffic.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

from lab.bench import tools
from lab.bench.tools import FlowRow, LifeRow, RttRow, Scope, StateRow, Tool, running
from lab.network.topology import Topology
from lab.observation import Observed, observing
from lab.tcp import UNSPECIFIED, Flow
from lab.timeline import Connection
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse
from lab.truth import rtt, states
from lab.truth.states import Waits
from lab.truth.wire import OnWire
from lab.verdict import Bracket


class Answer(NamedTuple):
    """What a tool says of one quantity of one connection (or peer), None when it does not know; and what is true.

    `missing`: it has not told of the connection at all, which is not true either.
    """

    quantity: str
    truth: Bracket
    told: float | None
    unit_ns: int = 0
    missing: bool = False

    @property
    def error(self) -> float | None:
        """How far from the truth it is at the least: 0 inside the bracket, as far as the tool's own unit tells."""
        if self.told is None:
            return None
        return max(0, self.truth.low - self.unit_ns - self.told, self.told - self.truth.high - self.unit_ns)

    @property
    def distance(self) -> float | None:
        """How far it is from the best estimate of the truth."""
        return None if self.told is None else abs(self.told - self.truth.best)

    @property
    def right(self) -> bool:
        """Tell whether it is consistent with the truth. Whoever says that he does not know is not wrong."""
        return not self.missing and not self.error


class Asked:
    """What was observed, and the rows of each tool; complete at the end of the `asking` block."""

    def __init__(self) -> None:
        self.observed: Observed
        self.rows: dict[Tool, list[Any]] = {}
        self.complaints: dict[Tool, str] = {}


@contextmanager
def asking(
    net: Topology, wanted: Sequence[Tool], lport: int | None = None, rport: int | None = None
) -> Iterator[Asked]:
    """Run tools around a block, at the client's interface; `observed` of what is yielded takes the block's connections."""
    asked = Asked()
    with ExitStack() as stack:
        runs = [stack.enter_context(running(tool, Scope(net.client.name, "eth0", lport, rport))) for tool in wanted]
        with observing(net) as asked.observed:
            yield asked
        for run in runs:
            run.await_quiet()
            run.end()
            asked.rows[run.tool], asked.complaints[run.tool] = run.rows(), run.complaints


def ask(
    net: Topology,
    wanted: Sequence[Tool],
    conversation: Conversation,
    *,
    lport: int | None = None,
    rport: int | None = None,
    **how: Any,
) -> Asked:
    """Hold conversations (`how`: as for `converse`) while tools watch."""
    with asking(net, wanted, lport, rport) as asked:
        with converse(net, conversation, **how) as demo:
            pass
        asked.observed.connections += demo.connections
    return asked


def answers(tool: Tool, asked: Asked) -> Iterator[Answer]:
    """Compare all that a tool has told with the truth."""
    compare = {tools.STATES: times_in_states, tools.DURATION: durations, tools.RTT: round_trips, tools.FLOWS: traffic}
    yield from compare[tool.kind](tool, asked)


def times_in_states(tool: Tool, asked: Asked) -> Iterator[Answer]:
    """Compare the time that each socket has spent in each state; a state that it may not have been in is left out."""
    observed = asked.observed
    for connection, its in observed.with_wire():
        for flow, paths, by_client in _sides(connection, observed.end_ns):
            mine = rows_of(asked.rows[tool], flow)
            spent = {row.oldstate: row.spent_ns for row in mine}
            waits = Waits(its, by_client=by_client)
            role = "client" if by_client else "server"
            for left, entered in pairwise(paths[0]):
                if left.state.name in spent or not mine:
                    bracket, told = waits.bracket(left, entered), spent.get(left.state.name)
                    yield Answer(f"{role}'s {left.state.name}", bracket, told, tool.unit_ns, missing=not mine)


def _sides(connection: Connection, end_ns: int) -> Iterator[tuple[Flow, list[states.Path], bool]]:
    yield connection.client.flow, states.client_paths(connection, end_ns), True
    if connection.server:
        yield connection.server.flow, states.server_paths(connection, end_ns), False


def rows_of(rows: Sequence[StateRow | LifeRow], flow: Flow) -> list[Any]:
    """Rows of one socket, those before it had its ports left out. Who was refused never knew its own address."""
    return [
        row
        for row in rows
        if (row.lport, row.raddr, row.rport) == flow[1:] and (row.laddr == flow.laddr or flow.laddr in UNSPECIFIED)
    ]


def durations(tool: Tool, asked: Asked) -> Iterator[Answer]:
    """Compare how long each connection has lasted, from its first SYN to its first FIN or RST."""
    for connection, its in asked.observed.with_wire():
        told = rows_of(asked.rows[tool], connection.client.flow)
        lasted_ns = told[0].lasted_ns if told else None
        yield Answer("first SYN to first FIN", lasted(connection, its), lasted_ns, tool.unit_ns, missing=not told)


def lasted(connection: Connection, its: OnWire | None) -> Bracket:
    """Return the time from the client's first SYN to its FIN or RST, or to its refusal."""
    connect = connection.client.find("connect")
    syn_ns = connect.exit_ns
    if its and len(left := its.to_server.left):
        syn_ns = min(syn_ns, int(left["arrived_high_ns"][0]))
    if connect.error:
        took_ns = connect.exit_ns - connect.enter_ns
        return Bracket(its.to_server.hold_ns() + its.to_client.hold_ns() if its else 0, took_ns, took_ns)
    end = next(call for call in connection.client.calls if call.name in ("shutdown", "close"))
    return Bracket(max(0, end.enter_ns - syn_ns), end.exit_ns - connect.enter_ns, end.enter_ns - connect.enter_ns)


def to_second_fin(connection: Connection, its: OnWire | None) -> Bracket:
    """Return the time from the client's first SYN to the server's FIN, which the client has seen when its recv() said so."""
    if connection.server is None:
        return lasted(connection, its)
    connect, fin = connection.client.find("connect"), connection.server.find("close")
    seen_ns = connection.client.calls[-1].exit_ns
    low_ns = max(0, fin.enter_ns - connect.exit_ns)
    return Bracket(low_ns, seen_ns - connect.enter_ns, low_ns)


def round_trips(tool: Tool, asked: Asked) -> Iterator[Answer]:
    """Compare the mean RTT to the server: an average lies among the samples that it is made of."""
    observed = asked.observed
    server = observed.connections[0].client.flow.raddr
    sent = [one for it in observed.connections for one in rtt.sent_by_client(it, observed.end_ns)]
    least_ns = 0
    if observed.wire:
        least_ns = min(observed.wire.shortest_round_trip_ns(it.client.flow) for it in observed.connections)
    samples = rtt.samples(sent, least_ns)
    bracket = Bracket(samples.smallest.low, samples.largest.high, samples.smallest.best)
    told = [row.mean_ns for row in asked.rows[tool] if isinstance(row, RttRow) and row.key == server]
    yield Answer("mean RTT", bracket, told[0] if told else None, tool.unit_ns, missing=not told)


def traffic(tool: Tool, asked: Asked) -> Iterator[Answer]:
    """Compare packets and bytes from the client to the server with what the wire has carried."""
    observed = asked.observed
    if observed.wire is None:
        return
    flows = {connection.client.flow for connection in observed.connections}
    left = observed.wire.stream(*flows).left
    client, server = observed.connections[0].client.flow.laddr, observed.connections[0].client.flow.raddr
    packets, size = len(left), int(left["length"].sum())
    told = between(asked.rows[tool], client, server)
    yield Answer("packets", Bracket(packets, packets, packets), told[0])
    yield Answer("bytes", Bracket(size, size, size), told[1])


def between(rows: Sequence[FlowRow], source: str, destination: str) -> tuple[int, int]:
    """Packets and bytes from one address to another, as a tool has told them."""
    mine = [row for row in rows if (row.source, row.destination) == (source, destination)]
    return sum(row.packets for row in mine), sum(row.size for row in mine)
