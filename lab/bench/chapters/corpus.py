"""The truth corpus: cases in which probes of this kind are known to print a wrong number, put to every tool that claims to answer.

Each case is caused on purpose, on a wire whose log is the truth, several times over; `verdict` is 1 for right and 0 for wrong. What a
tool calls unknown is not wrong, a connection that it does not tell of is. O1 and X2 are told by the observer effect. Not put here,
and proved for this project's probes by the scenarios: R3 (sums without atomics), R4 (edges of buckets), R5 (a step in the delay),
F3 (headers that are misread) and F4 (a full table), for which a tool would have to be fed from inside or to be told apart by ports.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lab.bench import tools
from lab.bench.asked import Answer, Asked, ask, asking, between, lasted, rows_of, times_in_states, to_second_fin
from lab.bench.chapters import Bench, able
from lab.bench.load_generator import PORT, loopback
from lab.bench.measurement import Measurement
from lab.bench.tools import DURATION, FLOWS, RTT, STATES, Scope, StateRow, Tool, running
from lab.carried import Carried
from lab.conditions import Conditions
from lab.demo.conversation import Conversation
from lab.demo.process import converse
from lab.generate.send import send
from lab.timeline import Connection
from lab.topology import CLIENT_MAC, Topology, topology
from lab.traffic_truth import segments_sent
from lab.units import MS
from lab.verdict import Bracket
from lab.wire.relay import Relay

FIGURE = "corpus"

Verdicts = Iterator[tuple[str, Tool, bool]]
"""Case, tool, whether what it told was right."""

_SPORT, _DPORT = 20480, 80  # each other's byte swap
_ONLY_PORT = 40001
_DELAY = Conditions(delay_ns=20 * MS)
_MANY_PEERS = 10_000


def measure(bench: Bench) -> Iterator[Measurement]:
    """Put every case, and yield a row for each case and tool."""
    found: dict[tuple[str, Tool], list[float]] = {}
    for case in (_one_connection, _by_port, _durations, _ipv6_peers, _traffic, _churn, _many_peers):
        for _ in range(bench.times(2, 1)):
            bench.step(f"corpus: {case.__name__.strip('_').replace('_', ' ')}")
            for name, tool, right in case(bench):
                found.setdefault((name, tool), []).append(float(right))
    for (name, tool), verdicts in sorted(found.items(), key=lambda item: item[0][0]):
        yield Measurement(FIGURE, tool.name, name, "verdict", verdicts)
    for kind in (STATES, DURATION, RTT, FLOWS):
        cases = sorted({name for name, tool in found if tool.kind == kind})
        for tool in tools.of(kind):
            if why := tools.refusal(tool):
                yield from (Measurement(FIGURE, tool.name, name, "verdict", refused=why) for name in cases)


@contextmanager
def _wire(to_server: Conditions = _DELAY, to_client: Conditions = _DELAY) -> Iterator[Topology]:
    with topology(Relay()) as net:
        net.conditions(to_server, to_client)
        yield net


def _one_connection(_: Bench) -> Verdicts:
    """S1, S2, S3, S6, S7: one connection with ports that are each other's byte swap, whose server closes late."""
    conversation = Conversation(hold_ns=5 * MS, linger_ns=60 * MS)
    with _wire() as net:
        asked = ask(net, able(STATES), conversation, port=_DPORT, source_port=_SPORT)
    (connection,) = asked.observed.connections
    for tool in able(STATES):
        told = {answer.quantity: answer for answer in times_in_states(tool, asked)}
        mine = _rows(tool, asked, connection)
        sockets: dict[str, list[StateRow]] = {}
        for row in mine:
            sockets.setdefault(row.socket, []).append(row)
        syn_recv, fin_wait2 = told.get("server's SYN_RECV"), told.get("client's FIN_WAIT2")
        yield "S1", tool, syn_recv is not None and syn_recv.right
        ended = [row.newstate for row in mine if row.oldstate == "FIN_WAIT2"]
        yield "S2", tool, fin_wait2 is not None and fin_wait2.right and ended == ["TIME_WAIT"]
        yield "S3", tool, bool(sockets) and all(rows[0].spent_ns is None for rows in sockets.values())
        ports = {port for row in mine for port in (row.lport, row.rport) if port}
        yield "S6", tool, ports == {_SPORT, _DPORT}
        yield "S7", tool, bool(mine) and all(row.pid in (None, _owner(row, connection)) for row in mine)


def _rows(tool: Tool, asked: Asked, connection: Connection) -> list[StateRow]:
    """Rows of a connection's sockets, those without a port as well, and the listener's left out."""
    flow = connection.client.flow
    ends = {flow.laddr, flow.raddr}
    return [
        row
        for row in asked.rows[tool]
        if isinstance(row, StateRow)
        and {row.laddr, row.raddr} == ends
        and {row.lport, row.rport} <= {flow.lport, flow.rport, 0, None, _swapped(flow.lport), _swapped(flow.rport)}
    ]


def _swapped(port: int) -> int:
    return port >> 8 | (port & 0xFF) << 8


def _owner(row: StateRow, connection: Connection) -> int:
    server = connection.server
    of_client = row.laddr == connection.client.flow.laddr
    return connection.client.pid if of_client or server is None else server.pid


def _by_port(_: Bench) -> Verdicts:
    """S4: limited to the client's port, which connect() chooses after SYN_SENT: that row is there, and its time is right."""
    with _wire() as net:
        net.client.sysctl("ipv4/ip_local_port_range", f"{_ONLY_PORT} {_ONLY_PORT}")
        asked = ask(net, able(STATES), Conversation(), lport=_ONLY_PORT, port=_DPORT)
    (connection,) = asked.observed.connections
    for tool in able(STATES):
        mine = [row for row in asked.rows[tool] if row.laddr == connection.client.flow.laddr]
        told = [answer for answer in times_in_states(tool, asked) if answer.quantity == "client's SYN_SENT"]
        begins = [row.newstate for row in mine][:1] == ["SYN_SENT"]
        yield "S4", tool, begins and bool(told) and all(answer.right and answer.told is not None for answer in told)


def _durations(_: Bench) -> Verdicts:
    """D1: a first SYN that is lost, which counts. D2: a reset and a refused connection. D3: a half-close."""
    lost = Conditions(delay_ns=_DELAY.delay_ns, drop=(1,))
    with _wire(lost) as net:
        yield from _lasting("D1", ask(net, able(DURATION), Conversation(), port=_DPORT), lasted)
    with _wire() as net:
        with asking(net, able(DURATION)) as asked:
            with converse(net, Conversation(how="rst", hold_ns=5 * MS), port=_DPORT) as reset:
                pass
            with converse(net, Conversation(), port=_DPORT + 1, source_port=_SPORT, serve=False) as refused:
                pass
            asked.observed.connections += [*reset.connections, *refused.connections]
        yield from _lasting("D2", asked, lasted)
    with _wire() as net:
        half_close = Conversation(how="shutdown", hold_ns=5 * MS, linger_ns=60 * MS)
        yield from _lasting("D3", ask(net, able(DURATION), half_close, port=_DPORT), lasted, to_second_fin)


def _lasting(case: str, asked: Asked, *truths: Callable[[Connection, Carried | None], Bracket]) -> Verdicts:
    """Tell whether each connection was told of, with a duration that is one of those that are true."""
    for tool in able(DURATION):
        right = True
        for connection, its in asked.observed.carried():
            told = [row.lasted_ns for row in rows_of(asked.rows[tool], connection.client.flow)][:1]
            true = [Answer("", truth(connection, its), ns, tool.unit_ns).right for truth in truths for ns in told]
            right &= any(true)
        yield case, tool, right


def _ipv6_peers(_: Bench) -> Verdicts:
    """R1: client and server are two IPv6 peers, of each other; each has an RTT of its own."""
    with _wire() as net:
        asked = ask(net, able(RTT), Conversation(exchanges=5), version=6, port=_DPORT)
        peers = {net.client.ipv6, net.server.ipv6}
    for tool in able(RTT):
        yield "R1", tool, peers <= {row.key for row in asked.rows[tool] if row.number}


def _traffic(_: Bench) -> Verdicts:
    """F1: super-packets, offloads on. F2: each packet once. F5: what is not IP has a name of its own."""
    bulk = Conversation(size_bits=64_000_000, reply_bits=8)
    with topology() as net:
        asked = ask(net, able(FLOWS), bulk, port=_DPORT)
        low, high, _best = segments_sent(asked.observed.sent[0])
        for tool in able(FLOWS):
            packets, _size = between(asked.rows[tool], net.client.ipv4, net.server.ipv4)
            yield "F1", tool, low <= packets <= high
    with _wire() as net, asking(net, able(FLOWS)) as asked:
        with converse(net, Conversation(exchanges=5), port=_DPORT) as demo:
            pass
        asked.observed.connections += demo.connections
        send(net.client.name, [_arp_request()])
    wire = asked.observed.wire
    if wire is None:
        raise TypeError("the relay keeps a log")
    (flow,) = (connection.client.flow for connection in asked.observed.connections)
    left = wire.way(flow).left
    for tool in able(FLOWS):
        yield "F2", tool, between(asked.rows[tool], flow.laddr, flow.raddr) == (len(left), int(left["length"].sum()))
        yield "F5", tool, any("ARP" in row.protocol for row in asked.rows[tool])


def _arp_request() -> bytes:
    """Return a frame that asks for an address that nobody has (RFC 826)."""
    sender = bytes.fromhex(CLIENT_MAC.replace(":", ""))
    asks = bytes.fromhex("0001080006040001") + sender + bytes([192, 0, 2, 1]) + bytes(6) + bytes([192, 0, 2, 77])
    return b"\xff" * 6 + sender + bytes.fromhex("0806") + asks + bytes(18)


def _churn(bench: Bench) -> Verdicts:
    """S5: sockets' addresses are reused in rapid churn; no time is longer than the longest of the connections."""
    for tool in able(STATES):
        with loopback() as place, running(tool, Scope(place.client)) as run:
            longest_ns = int(place.connections(bench.times(5000, 1000)).each_ns.max())
            run.await_quiet()
            run.end()
            mine = [row for row in run.rows() if PORT in (row.lport, row.rport) and row.newstate != "LISTEN"]
        mine = [row for row in mine if row.oldstate != "LISTEN" or row.newstate == "SYN_RECV"]
        yield "S5", tool, bool(mine) and all((row.spent_ns or 0) <= longest_ns + tool.unit_ns for row in mine)


def _many_peers(bench: Bench) -> Verdicts:
    """R2: thousands of peers; each is told, or those that are missing are counted."""
    many = bench.times(_MANY_PEERS, _MANY_PEERS // 2)
    for tool in able(RTT):
        with loopback() as place, running(tool, Scope(place.client)) as run:
            place.requests(2 * many, many, many)
            run.await_quiet()
            run.end(60.0)
            told = sum(row.key.startswith("127.") and row.number > 0 for row in run.rows())
            counted = "lost" in run.complaints
        yield "R2", tool, told >= many or counted
