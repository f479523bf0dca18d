"""Brackets for each entry into a TCP state (RFC 9293's state diagram), from the calls of both applications.

Two causal relations bound the entries. A side cannot see a FIN before the other side has entered the call that sends
it. A side has seen it at the latest when its own call returns that reports it.
"""

from typing import NamedTuple

import numpy as np

from lab.network import segment_parser
from lab.network.conditions import FOREVER_NS
from lab.network.segment_parser import covers, end_of, first
from lab.packet import ACK, FIN, RST, SYN
from lab.tcp import State
from lab.timeline import Connection, Timeline
from lab.truth.taps import Seen, by, since
from lab.truth.wire import OnWire
from lab.verdict import Bracket


class Entered(NamedTuple):
    """A state, and the earliest and latest time at which it was entered (nanoseconds, `CLOCK_MONOTONIC`).

    `prompt`: TCP enters it as soon as it can, so the earliest time is the best estimate. Otherwise the middle is.
    """

    state: State
    earliest_ns: int
    latest_ns: int
    prompt: bool = False

    @property
    def bracket(self) -> Bracket:
        """The interval of the entry, with its best estimate."""
        bracket = Bracket.early if self.prompt else Bracket.middle
        return bracket(self.earliest_ns, self.latest_ns)


Path = tuple[Entered, ...]


def between(start: Entered, end: Entered) -> Bracket:
    """Return the time from one entry to a later one."""
    bracket = Bracket.between(start.bracket, end.bracket)
    if not (start.prompt or end.prompt):
        return bracket
    best_ns = end.bracket.best - start.bracket.best
    return bracket._replace(best=min(max(best_ns, bracket.low), bracket.high))


def client_paths(connection: Connection, end_ns: int, seen: Seen | None = None) -> list[Path]:
    """Return the paths that the client's socket can have taken: several if the outcome of a race is unknown.

    `end_ns` is a time at which the connection was over, `seen` what the taps saw at the client's host. Raises `LookupError` if
    the server's timeline is missing.
    """
    connect = connection.client.opening
    during_connect = (connect.enter_ns, connect.exit_ns)
    opening = (Entered(State.SYN_SENT, *during_connect), Entered(State.ESTABLISHED, *during_connect))
    if connect.error:
        return [(opening[0], Entered(State.CLOSE, *during_connect))]
    if connection.server is None:
        raise LookupError(f"{connection.client.flow} was not accepted, but its connect() did not fail")
    paths = [opening + closing for closing in _closing(connection.client, connection.server, end_ns)]
    return _narrowed(paths, seen) if seen else paths


def server_paths(connection: Connection, end_ns: int, seen: Seen | None = None) -> list[Path]:
    """Return the paths that the server's socket can have taken; as `client_paths`, but empty if there is no server."""
    if connection.server is None:
        return []
    # inet_accept() takes the child's lock, which the final ACK holds until the child is ESTABLISHED.
    window = (connection.client.opening.enter_ns, connection.server.find("accept").exit_ns)
    opening = (Entered(State.SYN_RECV, *window), Entered(State.ESTABLISHED, *window))
    endings = _closing(connection.server, connection.client, end_ns)
    paths = [opening + closing for closing in endings]
    if connection.client.fast_opened:
        # The child was created for the SYN. The final ACK can come after accept(), and after the child has left SYN_RECV.
        established = opening[1]._replace(latest_ns=_acknowledged_ns(connection.server, connection.client, end_ns))
        paths = [(opening[0], established, *closing) for closing in endings]
        paths += [(opening[0], *closing) for closing in endings if closing[0].state in (State.FIN_WAIT1, State.CLOSE)]
    return _narrowed(paths, seen) if seen else paths


def _acknowledged_ns(server: Timeline, client: Timeline, end_ns: int) -> int:
    """Return a time by which a server opened by data in the SYN had the final ACK: it had read more than that data, or the FIN."""
    first_sent, read = client.opening.result, 0
    for call in server.calls:
        read += call.result if call.name == "recv" else 0
        if read > first_sent:
            return call.exit_ns
    return server.saw_fin.exit_ns if server.saw_fin else end_ns


def _closing(side: Timeline, other: Timeline, end_ns: int) -> list[Path]:
    """Return the possible paths of one side from ESTABLISHED to the end."""
    fin, other_fin_ns = side.closing, other.closing.enter_ns
    if side.resets:
        # If both sides reset, the other's RST may have come before this side's own.
        earliest_ns = min(fin.enter_ns, other_fin_ns) if other.resets else fin.enter_ns
        return [(Entered(State.CLOSE, earliest_ns, fin.exit_ns),)]
    if other.resets:
        latest_ns = side.saw_reset.exit_ns if side.saw_reset else end_ns
        return [(Entered(State.CLOSE, other_fin_ns, latest_ns, prompt=True),)]
    # The kernel has the other's FIN when the application reads it. If the application does not read it, the FIN may
    # come after the application's last call, so the bracket ends when the connection was over.
    seen_ns = side.saw_fin.exit_ns if side.saw_fin else end_ns
    during_fin = (fin.enter_ns, fin.exit_ns)
    active = (
        Entered(State.FIN_WAIT1, *during_fin),
        # The other side chooses when to acknowledge the FIN. It does so at the latest with its own FIN.
        Entered(State.FIN_WAIT2, fin.enter_ns, seen_ns, prompt=True),
        Entered(State.TIME_WAIT, other_fin_ns, seen_ns, prompt=True),
    )
    passive = (
        Entered(State.CLOSE_WAIT, other_fin_ns, seen_ns if _is_passive(side) else fin.exit_ns),
        Entered(State.LAST_ACK, *during_fin),
        Entered(State.CLOSE, fin.enter_ns, end_ns, prompt=True),
    )
    crossed_ns = max(fin.enter_ns, other_fin_ns)
    simultaneous = (
        active[0],
        Entered(State.CLOSING, crossed_ns, seen_ns, prompt=True),
        # The acknowledgement of this side's own FIN ends CLOSING. It may come after the application has read the
        # other's FIN.
        Entered(State.TIME_WAIT, crossed_ns, end_ns, prompt=True),
    )
    if _is_passive(side):
        return [passive]
    if _is_passive(other):
        return [active]
    return [path for path in (active, simultaneous, passive) if all(it.earliest_ns <= it.latest_ns for it in path)]


def _narrowed(paths: list[Path], seen: Seen) -> list[Path]:
    """Return the paths that agree with what the taps saw, with narrower times."""
    bounds, nothing = _bounds(seen), (0, FOREVER_NS)
    narrowed = []
    for path in paths:
        states = [entered.state for entered in path]
        # A RST ends the connection at any time, and can be refused (RFC 5961, 3).
        known = [
            nothing if it is State.CLOSE and State.LAST_ACK not in states else bounds.get(it, nothing) for it in states
        ]
        if State.SYN_RECV in states:
            known[0], established = _child_bounds(seen, bounds[State.SYN_RECV])
            known[1] = established if states[1] is State.ESTABLISHED else known[1]
        narrowed.append(
            tuple(
                it._replace(earliest_ns=max(it.earliest_ns, low_ns), latest_ns=min(it.latest_ns, high_ns))
                for it, (low_ns, high_ns) in zip(path, known, strict=True)
            )
        )
    return [path for path in narrowed if all(it.earliest_ns <= it.latest_ns for it in path)]


def _bounds(seen: Seen) -> dict[State, tuple[int, int]]:
    """Return the earliest and latest time at which each state can have been entered, by the frames at the host.

    A state that the socket's owner enters by a call precedes the frame that the call sends: `tcp_v4_connect()` and
    `tcp_close_state()` change it first. The acknowledgement of the peer's FIN is sent before TIME_WAIT and CLOSING are entered,
    and after CLOSE_WAIT (`tcp_fin()`).
    """
    left, came = seen.left, seen.came
    opened = segment_parser.has(came, SYN | ACK)
    answers = segment_parser.has(left, ACK) & ~segment_parser.has(left, SYN)
    data = (left["payload"] > 0) | segment_parser.has(left, FIN)
    ended = first(came, segment_parser.has(came, ACK) & ~segment_parser.has(came, SYN))
    fin, its_fin = (first(rows, segment_parser.has(rows, FIN)) for rows in (left, came))
    bounds = {
        State.SYN_SENT: (0, by(first(left, segment_parser.opens(left)))),
        State.ESTABLISHED: (
            since(first(came, opened)),
            by(first(left, answers & ~segment_parser.has(left, RST))),
        ),
        State.SYN_RECV: (since(ended), min(by(first(left, data)), _opened_ns(seen, ended))),
        State.FIN_WAIT1: (0, by(fin)),
        State.LAST_ACK: (0, by(fin)),
    }
    done = None if fin is None else first(came, covers(came, end_of(fin)))
    if done is not None:
        bounds[State.FIN_WAIT2] = bounds[State.CLOSE] = (since(done), _worked(seen, done))
    if its_fin is not None:
        since_ns, by_ns = since(its_fin), _worked(seen, its_fin)
        answered_ns = by(first(left, covers(left, end_of(its_fin)) & ~segment_parser.has(left, SYN)))
        bounds[State.CLOSE_WAIT] = (since_ns, min(by_ns, answered_ns))
        bounds[State.CLOSING] = (since_ns, by_ns)
        if done is not None:
            both = (bounds[State.FIN_WAIT2], (since_ns, by_ns))
            bounds[State.TIME_WAIT] = (max(low for low, _ in both), max(high for _, high in both))
    return bounds


def _child_bounds(seen: Seen, opened: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the bounds of SYN_RECV and ESTABLISHED of a server: both are entered for the segment that ends the handshake.

    With data in the SYN (RFC 7413) the child is created for the SYN and sends the SYN-ACK. The application may then hold it.
    """
    if not _has_data(syn := first(seen.came, segment_parser.opens(seen.came))):
        return opened, opened
    created = (since(syn), by(first(seen.left, segment_parser.has(seen.left, SYN))))
    ended = first(seen.came, segment_parser.has(seen.came, ACK) & ~segment_parser.has(seen.came, SYN))
    return created, (since(ended), FOREVER_NS if ended is None else _worked(seen, ended))


def _has_data(syn: "np.void | None") -> bool:
    return syn is not None and bool(syn["payload"])


def _opened_ns(seen: Seen, cause: "np.void | None") -> int:
    """Return a time by which the first segment that can end the handshake had created the child; for ever if it may not have."""
    if cause is None or _has_gaps(seen, cause) or any(call.name == "deferred" for call in seen.calls):
        return FOREVER_NS
    return seen.interrupt_ns(by(cause))  # no call holds a child that has not been accepted


def _worked(seen: Seen, cause: np.void) -> int:
    """Return a time by which the socket had worked on a frame that came, or for ever if it can have refused or kept it."""
    return FOREVER_NS if _has_gaps(seen, cause) else seen.done_ns(since(cause), by(cause))


def _has_gaps(seen: Seen, cause: np.void) -> bool:
    """Return whether TCP can have refused a frame, or kept it for later."""
    return since(cause) >= seen.gap_ns


def _is_passive(side: Timeline) -> bool:
    """Return whether a side had read the other's FIN before it closed itself."""
    return side.saw_fin is not None and side.saw_fin.exit_ns <= side.closing.enter_ns


def _handshake(seen: Seen, entered: Entered) -> Bracket:
    """Return the time from a server's SYN-ACK to its acknowledgement, which is the time in SYN_RECV (tcp_synack_rtt_meas())."""
    syn = since(first(seen.came, segment_parser.opens(seen.came)))
    syn_ack = by(first(seen.left, segment_parser.has(seen.left, SYN)))
    return Bracket.middle(max(0, entered.earliest_ns - syn_ack), entered.latest_ns - syn)


class Waits:
    """Times between two states of one side, with the least times from the wire's log.

    Without a log, the applications' calls and the taps alone bound them.
    """

    def __init__(self, carried: OnWire | None, side: Timeline, seen: Seen | None = None) -> None:
        self._seen = seen
        came = seen.came if seen else carried.to_server.arrived if carried else None
        self._fast_opened = side.fast_opened and (came is None or _has_data(first(came, segment_parser.opens(came))))
        fin_ns = carried.fin_ns(by_client=side.role == "client") if carried else 0
        self._least_ns = {
            (State.SYN_SENT, State.ESTABLISHED): carried.syn_sent_ns if carried else 0,
            (State.SYN_RECV, State.ESTABLISHED): carried.syn_recv_ns if carried else 0,
            (State.FIN_WAIT1, State.FIN_WAIT2): fin_ns,
            (State.FIN_WAIT1, State.TIME_WAIT): fin_ns,
            (State.LAST_ACK, State.CLOSE): fin_ns,
        }
        unmeasured = side.deferred or (carried is not None and (carried.syn_acks > 1 or carried.opened_by_data))
        self.unmeasured = {State.SYN_RECV} if unmeasured and not self._fast_opened else set()
        """States whose time is unknown: the kernel takes no sample of a retransmitted SYN-ACK (Karn's algorithm), and its
        sample is not of the network if the client's bare acknowledgement was lost, or ignored (TCP_DEFER_ACCEPT)."""

    def bracket(self, left: Entered, entered: Entered) -> Bracket:
        """Return the time from one state to the next."""
        bracket = between(left, entered)
        if self._seen and left.state is State.SYN_RECV and not self._fast_opened:
            bracket = _handshake(self._seen, entered)
        low = max(bracket.low, self._least_ns.get((left.state, entered.state), 0))
        return bracket._replace(low=low, best=max(low, bracket.best))
