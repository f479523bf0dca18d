"""Points in the life of a connection, between which tools measure: one vocabulary, and when each point was reached.

A time that a tool tells is judged between the two points that its description names. Each point is an interval: the
applications' timestamps and the wire's log enclose it. `docs/judge-your-tool.md` has a picture.
"""

from collections.abc import Iterator, Mapping

from msgspec import Struct

from lab.arrays import Rows
from lab.network import segment_parser
from lab.network.conditions import FOREVER_NS
from lab.packet import ACK, FIN, SYN
from lab.tcp import Side, State
from lab.timeline import Connection, Timeline
from lab.truth import durations, states
from lab.truth.requests import exchanges
from lab.truth.states import Path
from lab.truth.wire import OnWire
from lab.verdict import Bracket

_APPLICATION = {
    "connect_called": "the client calls connect()",
    "connect_returned": "connect() returns at the client",
    "accept_returned": "accept() returns the connection at the server",
    "close_called": "the socket's application calls close() or shutdown()",
    "close_returned": "that call returns",
    "request_written": "the client calls write() with the first byte of a request",
    "request_read": "read() returns the last byte of the request at the server",
    "reply_written": "the server calls write() with the last byte of the reply",
    "reply_read": "read() returns the last byte of the reply at the client",
}
_SEEN = {
    "syn_seen": "the client's first SYN passes the observed interface",
    "last_syn_seen": "the client's last SYN, which is answered, passes the observed interface",
    "synack_seen": "the server's first SYN-ACK passes the observed interface",
    "ack_seen": "the client's acknowledgement of the SYN-ACK passes the observed interface",
    "first_end_seen": "the first FIN or RST, of whichever side, passes the observed interface",
    "second_fin_seen": "the other side's FIN passes the observed interface",
    "last_seen": "the last segment of the connection passes the observed interface",
}
_ENTERED = {
    f"{state.name.lower()}_entered": f"the socket enters {state.name}"
    for state in State
    if state not in (State.LISTEN, State.NEW_SYN_RECV)
}
_SOCKET = {
    "socket_opened": "the socket leaves CLOSE or LISTEN: it enters SYN_SENT at the client, SYN_RECV at the server",
    "socket_closed": "the kernel ends the full socket: it enters CLOSE, or a timewait minisock takes its place, "
    "which inet_sock_set_state reports as CLOSE",
}
POINTS: Mapping[str, str] = _APPLICATION | _SEEN | _ENTERED | _SOCKET
"""Each point's name, and what happens there."""


class Point(Struct, array_like=True, frozen=True):
    """The earliest and the latest time at which a point was reached (ns, `CLOCK_MONOTONIC`), and how that is known."""

    low_ns: int
    high_ns: int
    known_by: str


def of_socket(connection: Connection, on_wire: OnWire | None, end_ns: int, *, by_client: bool) -> dict[str, Point]:
    """Return the points of one side's socket. A point that was not reached, or that is not known, is missing."""
    return dict(_of_socket(connection, on_wire, end_ns, by_client=by_client))


def _of_socket(
    connection: Connection, on_wire: OnWire | None, end_ns: int, *, by_client: bool
) -> Iterator[tuple[str, Point]]:
    client, server = connection.client, connection.server
    connect = client.opening
    yield "connect_called", Point(connect.enter_ns, connect.enter_ns, "the client's timestamp before connect()")
    yield "connect_returned", Point(connect.exit_ns, connect.exit_ns, "the client's timestamp after connect()")
    if server:
        accept = server.find("accept")
        yield "accept_returned", Point(accept.exit_ns, accept.exit_ns, "the server's timestamp after accept()")
    mine = client if by_client else server
    if mine and any(call.name in ("close", "shutdown") for call in mine.calls):
        close = mine.closing
        yield "close_called", Point(close.enter_ns, close.enter_ns, f"the timestamp before {close.name}()")
        yield "close_returned", Point(close.exit_ns, close.exit_ns, f"the timestamp after {close.name}()")
    yield from _seen(connection, on_wire, end_ns)
    if server or by_client:
        entered = dict(_entered(connection, end_ns, by_client=by_client))
        yield from (_narrowed(entered, on_wire) if by_client and on_wire else entered).items()


def _seen(connection: Connection, on_wire: OnWire | None, end_ns: int) -> Iterator[tuple[str, Point]]:
    """Yield the points at the client's interface."""
    known = "the applications' timestamps around the calls that send it and that see it"
    if on_wire:
        known += ", and the wire's log of the frame"
    truth = durations.truth_of(connection, end_ns)
    if on_wire:
        truth = durations.seen_at(Side.CLIENT, truth, on_wire)
    yield "syn_seen", Point(truth.start.low, truth.start.high, known)
    if on_wire:
        arrived = on_wire.to_client.arrived
        answers = arrived[segment_parser.has(arrived, SYN | ACK)]
        if len(answers):
            low_ns = int(answers["sent_low_ns"].min())
            left = on_wire.to_server.left
            yield "last_syn_seen", _last_syn(truth.start, left[segment_parser.has(left, SYN)], known)
            after = left[~segment_parser.has(left, SYN)]
            high_ns = connection.client.opening.exit_ns
            if len(after):  # the client answers the SYN-ACK after it has passed
                acknowledged_ns = int(after["arrived_high_ns"].min())
                yield "ack_seen", Point(low_ns, acknowledged_ns, known)
                high_ns = min(high_ns, acknowledged_ns)
            yield "synack_seen", Point(low_ns, high_ns, known)
        # A frame that left passed before it came to the wire, one that arrived passed after it left the wire.
        low_ns = int(arrived["sent_low_ns"].max()) if len(arrived) else truth.start.low
        high_ns = int(on_wire.to_server.left["arrived_high_ns"].max(initial=0))
        yield "last_seen", Point(low_ns, high_ns if high_ns >= low_ns else end_ns, known)
    if truth.ends:
        yield "first_end_seen", _point(truth.first_end, known)
    if truth.second_fin:
        second = _point(truth.second_fin, known)
        if on_wire and truth.closed_first == [Side.CLIENT]:
            second = Point(second.low_ns, min(second.high_ns, _acknowledged_ns(on_wire)), known)
        yield "second_fin_seen", second


def _acknowledged_ns(on_wire: OnWire) -> int:
    """Return a time by which the client had acknowledged the server's FIN, which has passed its interface before."""
    fins = on_wire.to_client.arrived[segment_parser.has(on_wire.to_client.arrived, FIN)]
    left = on_wire.to_server.left
    if not len(fins):
        return FOREVER_NS
    end = segment_parser.end_of(fins[0])
    answers = left[segment_parser.has(left, ACK) & (left["ack"] == end)]
    return int(answers["arrived_high_ns"].min()) if len(answers) else FOREVER_NS


def _last_syn(first: Bracket, syns: Rows, known: str) -> Point:
    """Return when the last SYN passed: each is sent at least `SYN_INTERVAL_NS` after the one before."""
    if len(syns) == 1:
        return _point(first, known)
    return Point(first.low + (len(syns) - 1) * durations.SYN_INTERVAL_NS, int(syns["arrived_high_ns"].max()), known)


def _entered(connection: Connection, end_ns: int, *, by_client: bool) -> Iterator[tuple[str, Point]]:
    paths = (states.client_paths if by_client else states.server_paths)(connection, end_ns)
    known = "the timestamps around the calls that cause the change and that show that it has happened"
    names = set.intersection(*({it.state for it in path} for path in paths)) if paths else set()
    for state in sorted(names):
        entries = [next(it for it in path if it.state is state) for path in paths]
        low_ns, high_ns = min(it.earliest_ns for it in entries), max(it.latest_ns for it in entries)
        yield f"{state.name.lower()}_entered", Point(low_ns, high_ns, known)
    if paths:
        first = [path[0] for path in paths]
        yield "socket_opened", Point(min(it.earliest_ns for it in first), max(it.latest_ns for it in first), known)
        mine = connection.client if by_client else connection.server
        ends = [_closed(path, mine) for path in paths]
        yield "socket_closed", Point(min(it.low_ns for it in ends), max(it.high_ns for it in ends), known)


def _narrowed(entered: dict[str, Point], on_wire: OnWire) -> dict[str, Point]:
    """Return the points of a client's socket with what the wire's log proves of its opening.

    The kernel enters SYN_SENT before it sends the SYN (tcp_v4_connect()), and ESTABLISHED between the arrival of the SYN-ACK
    and its own next segment (tcp_rcv_synsent_state_process()).
    """
    left, arrived = on_wire.to_server.left, on_wire.to_client.arrived
    known = "the client's timestamps around connect(), and the wire's log of the frames before and after"
    syns = left[segment_parser.has(left, SYN)]
    after = left[~segment_parser.has(left, SYN)]
    answers = arrived[segment_parser.has(arrived, SYN | ACK)]
    bounds: dict[str, tuple[int, int]] = {}
    if len(syns):
        by_ns = int(syns["arrived_high_ns"].min())
        bounds |= {"syn_sent_entered": (0, by_ns), "socket_opened": (0, by_ns)}
    if len(after) and len(answers):
        bounds["established_entered"] = int(answers["sent_low_ns"].min()), int(after["arrived_high_ns"].min())
    return entered | {
        name: Point(max(entered[name].low_ns, low_ns), min(entered[name].high_ns, high_ns), known)
        for name, (low_ns, high_ns) in bounds.items()
        if name in entered
    }


def _closed(path: Path, mine: Timeline | None) -> Point:
    """Return when the full socket ended on one path.

    After close(), a minisock replaces it as soon as it would enter FIN_WAIT2 (tcp_rcv_state_process()); after shutdown()
    when it enters TIME_WAIT.
    """
    entered = {it.state: it for it in path}
    orphan = mine is not None and mine.closing.name == "close"
    if orphan and State.FIN_WAIT2 in entered:
        # The peer's FIN may have come with the acknowledgement.
        return Point(entered[State.FIN_WAIT2].earliest_ns, entered[State.TIME_WAIT].latest_ns, "")
    last = path[-1]
    return Point(last.earliest_ns, last.latest_ns, "")


def of_requests(connection: Connection) -> list[dict[str, Point]]:
    """Return the points of each request and its reply, in order."""
    known = "the applications' timestamps around write() and read()"
    return [
        {
            "request_written": _point(it.request.begun, known),
            "request_read": _point(it.request.returned, known),
            "reply_written": _point(it.reply.written, known),
            "reply_read": _point(it.reply.returned, known),
        }
        for it in exchanges(connection)
    ]


def least_ns(on_wire: OnWire | None) -> dict[str, int]:
    """Return the least times between two points that the wire's log gives, by `FROM>TO`."""
    if on_wire is None:
        return {}
    return {
        f"{start}>{end}": on_wire.syn_sent_ns
        for start in ("connect_called", "syn_sent_entered", "syn_seen")
        for end in ("synack_seen", "connect_returned", "established_entered")
    }


def between(points: Mapping[str, Point], start: str, end: str, least: Mapping[str, int]) -> Bracket | None:
    """Return the time from one point to another; None if one of them was not reached."""
    if start not in points or end not in points:
        return None
    begin, finish = points[start], points[end]
    low = max(0, finish.low_ns - begin.high_ns, least.get(f"{start}>{end}", 0))
    high = finish.high_ns - begin.low_ns
    best_ns = (finish.low_ns + finish.high_ns - begin.low_ns - begin.high_ns) // 2
    return Bracket(low, high, min(max(best_ns, low), high))


def _point(bracket: Bracket, known_by: str) -> Point:
    return Point(bracket.low, min(bracket.high, FOREVER_NS), known_by)
