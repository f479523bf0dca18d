"""Answers of each tool about traffic with known truth, and whether each is correct.

The reference is that of the scenarios (`lab.truth.states`, `lab.truth.rtt`, the wire's log): a value outside its
bracket is provably wrong. All tools of a kind watch the same traffic, so they share one reference. The cases of the
corpus live in `lab.bench.cases`.
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
    """A tool's value for one quantity of a connection or peer, next to the true bracket.

    `value` is None when the tool reports it as unknown. `missing` is true when the tool has no row for the connection.
    """

    quantity: str
    truth: Bracket
    value: float | None
    unit_ns: int = 0
    missing: bool = False

    @property
    def error(self) -> float | None:
        """Distance from the bracket, less the tool's own unit; 0 inside. None for an unknown value."""
        if self.value is None:
            return None
        return max(0, self.truth.low - self.unit_ns - self.value, self.value - self.truth.high - self.unit_ns)

    @property
    def distance(self) -> float | None:
        """Distance from the best estimate of the truth. None for an unknown value."""
        return None if self.value is None else abs(self.value - self.truth.best)

    @property
    def correct(self) -> bool:
        """Return true if the answer is consistent with the truth. An unknown value is correct, a missing row is not."""
        return not self.missing and not self.error


class Experiment:
    """The observed connections, and each tool's rows and standard error; complete when the `watching` block ends."""

    def __init__(self) -> None:
        self.observed: Observed
        self.rows: dict[Tool, list[Any]] = {}
        self.stderr: dict[Tool, str] = {}


@contextmanager
def watching(
    net: Topology, wanted: Sequence[Tool], lport: int | None = None, rport: int | None = None
) -> Iterator[Experiment]:
    """Run tools at the client's interface around a block. The block adds its connections to `observed`."""
    experiment = Experiment()
    with ExitStack() as stack:
        started = [stack.enter_context(running(tool, Scope(net.client.name, "eth0", lport, rport))) for tool in wanted]
        with observing(net) as experiment.observed:
            yield experiment
        for process in started:
            process.await_quiet()
            process.end()
            experiment.rows[process.tool], experiment.stderr[process.tool] = process.rows(), process.stderr


def watch_conversation(
    net: Topology,
    wanted: Sequence[Tool],
    conversation: Conversation,
    *,
    lport: int | None = None,
    rport: int | None = None,
    **options: Any,
) -> Experiment:
    """Run conversations while tools watch. `options` are passed to `converse`."""
    with watching(net, wanted, lport, rport) as experiment:
        with converse(net, conversation, **options) as demo:
            pass
        experiment.observed.connections += demo.connections
    return experiment


def answers_of(tool: Tool, experiment: Experiment) -> Iterator[Answer]:
    """Yield the answers of a tool, by the comparison for its kind."""
    compare = {tools.STATES: times_in_states, tools.DURATION: durations, tools.RTT: round_trips, tools.FLOWS: traffic}
    yield from compare[tool.kind](tool, experiment)


def times_in_states(tool: Tool, experiment: Experiment) -> Iterator[Answer]:
    """Yield the time of each socket in each state.

    A state without a value is left out if the tool has other rows of the socket: the socket may have taken another
    path.
    """
    observed = experiment.observed
    for connection, on_wire in observed.with_wire():
        for flow, paths, by_client in _sides(connection, observed.end_ns):
            mine = rows_of(experiment.rows[tool], flow)
            spent = {row.oldstate: row.spent_ns for row in mine}
            waits = Waits(on_wire, by_client=by_client)
            role = "client" if by_client else "server"
            for left, entered in pairwise(paths[0]):
                if left.state.name in spent or not mine:
                    bracket, value = waits.bracket(left, entered), spent.get(left.state.name)
                    yield Answer(f"{role}'s {left.state.name}", bracket, value, tool.unit_ns, missing=not mine)


def _sides(connection: Connection, end_ns: int) -> Iterator[tuple[Flow, list[states.Path], bool]]:
    yield connection.client.flow, states.client_paths(connection, end_ns), True
    if connection.server:
        yield connection.server.flow, states.server_paths(connection, end_ns), False


def rows_of(rows: Sequence[StateRow | LifeRow], flow: Flow) -> list[Any]:
    """Return the rows of one socket, except those from before it had its ports.

    An unspecified local address in `flow`, that of a refused connection, matches every local address.
    """
    return [
        row
        for row in rows
        if (row.lport, row.raddr, row.rport) == flow[1:] and (row.laddr == flow.laddr or flow.laddr in UNSPECIFIED)
    ]


def durations(tool: Tool, experiment: Experiment) -> Iterator[Answer]:
    """Yield the duration of each connection, from its first SYN to its first FIN or RST."""
    for connection, on_wire in experiment.observed.with_wire():
        mine = rows_of(experiment.rows[tool], connection.client.flow)
        duration_ns = mine[0].duration_ns if mine else None
        truth = to_first_end(connection, on_wire)
        yield Answer("first SYN to first FIN", truth, duration_ns, tool.unit_ns, missing=not mine)


def to_first_end(connection: Connection, on_wire: OnWire | None) -> Bracket:
    """Time from the client's first SYN to its FIN or RST, or to the refusal of the connection."""
    connect = connection.client.opening
    syn_ns = connect.exit_ns
    if on_wire and len(left := on_wire.to_server.left):
        syn_ns = min(syn_ns, int(left["arrived_high_ns"][0]))
    if connect.error:
        took_ns = connect.exit_ns - connect.enter_ns
        held_ns = on_wire.to_server.hold_ns() + on_wire.to_client.hold_ns() if on_wire else 0
        return Bracket.late(held_ns, took_ns)
    end = connection.client.closing
    return Bracket(max(0, end.enter_ns - syn_ns), end.exit_ns - connect.enter_ns, end.enter_ns - connect.enter_ns)


def to_second_fin(connection: Connection, on_wire: OnWire | None) -> Bracket:
    """Time from the client's first SYN to the server's FIN, which has arrived when the client's last call returns."""
    if connection.server is None:
        return to_first_end(connection, on_wire)
    connect, fin = connection.client.opening, connection.server.find("close")
    seen_ns = connection.client.calls[-1].exit_ns
    low_ns = max(0, fin.enter_ns - connect.exit_ns)
    return Bracket.early(low_ns, seen_ns - connect.enter_ns)


def round_trips(tool: Tool, experiment: Experiment) -> Iterator[Answer]:
    """Yield the mean RTT to the server. The bracket reaches from the smallest to the largest sample."""
    observed = experiment.observed
    server = observed.connections[0].client.flow.raddr
    sent = [one for it in observed.connections for one in rtt.sent_by_client(it, observed.end_ns)]
    least_ns = 0
    if observed.wire:
        least_ns = min(observed.wire.shortest_round_trip_ns(it.client.flow) for it in observed.connections)
    samples = rtt.samples(sent, least_ns)
    bracket = Bracket(samples.smallest.low, samples.largest.high, samples.smallest.best)
    means_ns = [row.mean_ns for row in experiment.rows[tool] if isinstance(row, RttRow) and row.key == server]
    yield Answer("mean RTT", bracket, means_ns[0] if means_ns else None, tool.unit_ns, missing=not means_ns)


def traffic(tool: Tool, experiment: Experiment) -> Iterator[Answer]:
    """Yield packets and bytes from the client to the server. The wire's log is the reference."""
    observed = experiment.observed
    if observed.wire is None:
        return
    flows = {connection.client.flow for connection in observed.connections}
    left = observed.wire.stream(*flows).left
    client, server = observed.connections[0].client.flow.laddr, observed.connections[0].client.flow.raddr
    packets, size = len(left), int(left["length"].sum())
    counted = between(experiment.rows[tool], client, server)
    yield Answer("packets", Bracket.exactly(packets), counted[0])
    yield Answer("bytes", Bracket.exactly(size), counted[1])


def between(rows: Sequence[FlowRow], source: str, destination: str) -> tuple[int, int]:
    """Return the packets and bytes from one address to another in a tool's rows."""
    mine = [row for row in rows if (row.source, row.destination) == (source, destination)]
    return sum(row.packets for row in mine), sum(row.size for row in mine)
