"""When TCP must have changed state, given what both applications did: RFC 9293's state diagram with brackets of time.

Each entry into a state gets the interval in which it can have happened. The interval's ends are stamps of system calls, and
causality: a side cannot see a FIN before the other has entered the call that sends it, and has seen it at the latest when its
own call that reports it returns.
"""

from dataclasses import dataclass
from typing import NamedTuple

from lab.tcp import State
from lab.timeline import Call, Connection, Timeline
from lab.truth.wire import OnWire
from lab.verdict import Bracket


class Entered(NamedTuple):
    """A state, and the earliest and latest time at which it was entered (nanoseconds, `CLOCK_MONOTONIC`).

    `prompt` says that TCP enters it as soon as it can, so that the earliest time is the best estimate; otherwise the
    middle is.
    """

    state: State
    earliest_ns: int
    latest_ns: int
    prompt: bool = False

    @property
    def bracket(self) -> Bracket:
        """The interval of the entry, with its best estimate."""
        best_ns = self.earliest_ns if self.prompt else (self.earliest_ns + self.latest_ns) // 2
        return Bracket(self.earliest_ns, self.latest_ns, best_ns)


Path = tuple[Entered, ...]


def between(start: Entered, end: Entered) -> Bracket:
    """How long it can have taken from one entry to a later one."""
    low_ns, high_ns = max(0, end.earliest_ns - start.latest_ns), end.latest_ns - start.earliest_ns
    if not (start.prompt or end.prompt):
        return Bracket(low_ns, high_ns, (low_ns + high_ns) // 2)
    best_ns = end.bracket.best - start.bracket.best
    return Bracket(low_ns, high_ns, min(max(best_ns, low_ns), high_ns))


@dataclass(frozen=True)
class _Side:
    """One end's calls that matter for closing."""

    timeline: Timeline

    @property
    def fin(self) -> Call:
        """The call that sends this side's FIN, or its RST."""
        return next(call for call in self.timeline.calls if call.name in ("shutdown", "close"))

    @property
    def saw_end(self) -> Call | None:
        """The call that told the application of the other side's FIN."""
        return next((c for c in self.timeline.calls if c.name == "recv" and c.result == 0 and not c.error), None)

    @property
    def saw_reset(self) -> Call | None:
        """The call that told the application of the other side's RST."""
        return next((call for call in self.timeline.calls if call.error in ("ECONNRESET", "EPIPE")), None)

    @property
    def resets(self) -> bool:
        return any(call.name == "linger0" for call in self.timeline.calls)

    @property
    def passive(self) -> bool:
        """Whether it knew that the other side had closed before it closed itself."""
        return self.saw_end is not None and self.saw_end.exit_ns <= self.fin.enter_ns


def client_paths(connection: Connection, end_ns: int) -> list[Path]:
    """Paths that the client's socket can have taken: one, or several when the outcome of a race is not known.

    `end_ns` is a time at which the connection is known to have been over.
    """
    connect = connection.client.find("connect")
    during_connect = (connect.enter_ns, connect.exit_ns)
    opening = (Entered(State.SYN_SENT, *during_connect), Entered(State.ESTABLISHED, *during_connect))
    if connect.error:
        return [(opening[0], Entered(State.CLOSE, *during_connect))]
    if connection.server is None:
        raise LookupError(f"nobody accepted {connection.client.flow}, and its client did not see an error")
    return [opening + closing for closing in _closing(_Side(connection.client), _Side(connection.server), end_ns)]


def server_paths(connection: Connection, end_ns: int) -> list[Path]:
    """Paths that the server's socket can have taken; as for `client_paths`."""
    if connection.server is None:
        return []
    # inet_accept() takes the child's lock, which the final ACK holds until the child is ESTABLISHED.
    window = (connection.client.find("connect").enter_ns, connection.server.find("accept").exit_ns)
    opening = (Entered(State.SYN_RECV, *window), Entered(State.ESTABLISHED, *window))
    return [opening + closing for closing in _closing(_Side(connection.server), _Side(connection.client), end_ns)]


def _closing(side: _Side, other: _Side, end_ns: int) -> list[Path]:
    fin, other_fin = (side.fin.enter_ns, side.fin.exit_ns), other.fin.enter_ns
    if side.resets:
        # When both reset, the other's RST may have come before this side's own.
        earliest = min(side.fin.enter_ns, other_fin) if other.resets else side.fin.enter_ns
        return [(Entered(State.CLOSE, earliest, side.fin.exit_ns),)]
    if other.resets:
        latest = side.saw_reset.exit_ns if side.saw_reset else end_ns
        return [(Entered(State.CLOSE, other_fin, latest, prompt=True),)]
    # The end of the other side is known where this application has read it; the kernel may learn it later than the
    # last system call, so without that the bracket ends when the connection was seen to be over.
    told = side.saw_end.exit_ns if side.saw_end else end_ns
    active = (
        Entered(State.FIN_WAIT1, *fin),
        # The other side acknowledges the FIN when it likes to, at the latest with its own FIN.
        Entered(State.FIN_WAIT2, side.fin.enter_ns, told, prompt=True),
        Entered(State.TIME_WAIT, other_fin, told, prompt=True),
    )
    passive = (
        Entered(State.CLOSE_WAIT, other_fin, told if side.passive else side.fin.exit_ns),
        Entered(State.LAST_ACK, *fin),
        Entered(State.CLOSE, side.fin.enter_ns, end_ns, prompt=True),
    )
    crossed = max(side.fin.enter_ns, other_fin)
    simultaneous = (
        active[0],
        Entered(State.CLOSING, crossed, told, prompt=True),
        # The application has read the other's FIN, but what ends CLOSING is the acknowledgement of its own.
        Entered(State.TIME_WAIT, crossed, end_ns, prompt=True),
    )
    if side.passive:
        return [passive]
    if other.passive:
        return [active]
    return [path for path in (active, simultaneous, passive) if all(it.earliest_ns <= it.latest_ns for it in path)]


class Waits:
    """What the wire says of the times that one side waited for the other; nothing where the wire keeps no log."""

    def __init__(self, carried: OnWire | None, *, by_client: bool) -> None:
        fin_ns = carried.fin_ns(by_client=by_client) if carried else 0
        self._least_ns = {
            (State.SYN_SENT, State.ESTABLISHED): carried.syn_sent_ns if carried else 0,
            (State.SYN_RECV, State.ESTABLISHED): carried.syn_recv_ns if carried else 0,
            (State.FIN_WAIT1, State.FIN_WAIT2): fin_ns,
            (State.FIN_WAIT1, State.TIME_WAIT): fin_ns,
            (State.LAST_ACK, State.CLOSE): fin_ns,
        }
        self.unmeasured = {State.SYN_RECV} if carried and carried.syn_acks > 1 else set()
        """States whose time nobody has measured: of a SYN-ACK that was sent again the kernel takes no sample (Karn)."""

    def bracket(self, left: Entered, entered: Entered) -> Bracket:
        """How long it can have taken from one state to the next."""
        bracket = between(left, entered)
        low = max(bracket.low, self._least_ns.get((left.state, entered.state), 0))
        return Bracket(low, bracket.high, max(low, bracket.best))
