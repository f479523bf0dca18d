"""Cases of states (S): rows of each tool about the sockets of one connection, and of many."""

from lab.bench.answers import Experiment, times_in_states, watch_conversation
from lab.bench.cases import DPORT, SPORT, Verdicts, wire
from lab.bench.context import Bench, runnable
from lab.bench.load_generator import PORT, loopback
from lab.bench.tools import STATES, Scope, StateRow, Tool, running
from lab.timeline import Connection
from lab.traffic.demo.conversation import Conversation
from lab.units import MS

_ONLY_PORT = 40001


def one_connection(_: Bench) -> Verdicts:
    """S1, S2, S3, S6, S7: one connection. Its ports are the byte swap of each other, and its server closes late."""
    conversation = Conversation(hold_ns=5 * MS, linger_ns=60 * MS)
    with wire() as net:
        experiment = watch_conversation(net, runnable(STATES), conversation, port=DPORT, source_port=SPORT)
    (connection,) = experiment.observed.connections
    for tool in runnable(STATES):
        answers = {answer.quantity: answer for answer in times_in_states(tool, experiment)}
        mine = _rows(tool, experiment, connection)
        sockets: dict[str, list[StateRow]] = {}
        for row in mine:
            sockets.setdefault(row.socket, []).append(row)
        syn_recv, fin_wait2 = answers.get("server's SYN_RECV"), answers.get("client's FIN_WAIT2")
        yield "S1", tool, syn_recv is not None and syn_recv.correct
        after_fin_wait2 = [row.newstate for row in mine if row.oldstate == "FIN_WAIT2"]
        yield "S2", tool, fin_wait2 is not None and fin_wait2.correct and after_fin_wait2 == ["TIME_WAIT"]
        yield "S3", tool, bool(sockets) and all(rows[0].spent_ns is None for rows in sockets.values())
        ports = {port for row in mine for port in (row.lport, row.rport) if port}
        yield "S6", tool, ports == {SPORT, DPORT}
        yield "S7", tool, bool(mine) and all(row.pid in (None, _owner(row, connection)) for row in mine)


def _rows(tool: Tool, experiment: Experiment, connection: Connection) -> list[StateRow]:
    """Return the rows of a connection's sockets, also those with missing or swapped ports, but not the listener's."""
    flow = connection.client.flow
    ends = {flow.laddr, flow.raddr}
    return [
        row
        for row in experiment.rows[tool]
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


def by_port(_: Bench) -> Verdicts:
    """S4: a filter by the client's port, which connect() chooses after SYN_SENT. Its row has to be there and correct."""
    with wire() as net:
        net.client.sysctl("ipv4/ip_local_port_range", f"{_ONLY_PORT} {_ONLY_PORT}")
        experiment = watch_conversation(net, runnable(STATES), Conversation(), lport=_ONLY_PORT, port=DPORT)
    (connection,) = experiment.observed.connections
    for tool in runnable(STATES):
        mine = [row for row in experiment.rows[tool] if row.laddr == connection.client.flow.laddr]
        answers = [answer for answer in times_in_states(tool, experiment) if answer.quantity == "client's SYN_SENT"]
        begins = [row.newstate for row in mine][:1] == ["SYN_SENT"]
        known = bool(answers) and all(answer.value is not None for answer in answers)
        yield "S4", tool, begins and known and all(answer.correct for answer in answers)


def churn(bench: Bench) -> Verdicts:
    """S5: in rapid churn the kernel reuses the addresses of sockets. No time exceeds the longest connection."""
    for tool in runnable(STATES):
        with loopback() as place, running(tool, Scope(place.client)) as run:
            longest_ns = int(place.connections(bench.times(5000, 1000)).each_ns.max())
            run.await_quiet()
            run.end()
            mine = [row for row in run.rows() if PORT in (row.lport, row.rport) and row.newstate != "LISTEN"]
        mine = [row for row in mine if row.oldstate != "LISTEN" or row.newstate == "SYN_RECV"]
        yield "S5", tool, bool(mine) and all((row.spent_ns or 0) <= longest_ns + tool.unit_ns for row in mine)


CASES = (one_connection, by_port, churn)
