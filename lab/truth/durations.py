"""Brackets for the segments that open and end a connection, from both applications' calls and the wire's log.

- A SYN leaves inside connect(), with TCP Fast Open (RFC 7413) inside the first send().
- A FIN leaves no earlier than its side enters close() or shutdown(). It can leave after close() has returned:
  congestion control may hold it back, by pacing or by its window.
- An application that reads the end of the stream has received the FIN.

Times are nanoseconds on `CLOCK_MONOTONIC`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from lab.arrays import Mask, Rows
from lab.network import segment_parser
from lab.network.conditions import FOREVER_NS
from lab.network.segment_parser import first
from lab.packet import ACK, FIN, RST, SYN
from lab.tcp import Ended, Side
from lab.timeline import Connection, Timeline
from lab.truth.taps import Seen, since
from lab.truth.wire import OnWire
from lab.verdict import Bracket

SYN_INTERVAL_NS = 990_000_000
"""A SYN is retransmitted no earlier than one second later (RFC 6298, 2.1); the kernel's timer counts whole ticks."""


class End(NamedTuple):
    """One side's FIN or RST, and the earliest and latest time at which it can have passed either host's interface."""

    side: Side
    low_ns: int
    high_ns: int
    is_rst: bool


@dataclass(frozen=True)
class Truth:
    """The true life of a connection, for the rows of the probe `duration`.

    - `start`: when the first SYN passed; `answered`: when the first SYN-ACK did.
    - `ended`: the possible ways in which the connection ended.
    - `ends`: the FIN or RST of each side that sent one.
    - `syns_again`, `fins_again`: how often SYNs and FINs were retransmitted. Only the wire's log gives the FINs;
      without, None.
    """

    start: Bracket
    answered: Bracket
    ended: list[Ended]
    ends: list[End]
    syns_again: Bracket
    fins_again: Bracket | None = None

    @property
    def first_end(self) -> Bracket:
        """When the first FIN or RST passed."""
        return Bracket.middle(min(end.low_ns for end in self.ends), min(end.high_ns for end in self.ends))

    @property
    def second_fin(self) -> Bracket | None:
        """When the second FIN passed; None if there was none."""
        if self.ended != [Ended.FIN]:
            return None
        return Bracket.middle(max(end.low_ns for end in self.ends), max(end.high_ns for end in self.ends))

    @property
    def closed_first(self) -> list[Side]:
        """The sides that can have closed first."""
        earliest = min(end.high_ns for end in self.ends)
        return [end.side for end in self.ends if end.low_ns < earliest]


def truth_of(connection: Connection, end_ns: int) -> Truth:
    """Return the truth from the calls of both applications.

    `end_ns` is a time at which the connection was over. Raises `LookupError` if the server's timeline is missing.
    """
    client, server = connection.client, connection.server
    connect = client.opening
    start = Bracket.middle(connect.enter_ns, connect.exit_ns)
    if connect.error == "ECONNREFUSED":
        rst = End(Side.SERVER, connect.enter_ns, connect.exit_ns, is_rst=True)
        return Truth(start, start, [Ended.REFUSED], [rst], _syns_again(start.low, connect.exit_ns))
    if connect.error:  # TIMEOUT, or OPEN if the measurement ends before SYN_TIMEOUT_NS is over
        again = _syns_again(start.low, connect.exit_ns)
        return Truth(start, start, [Ended.TIMEOUT, Ended.OPEN], [], again)
    if server is None:
        raise LookupError(f"{client.flow} was not accepted, but its connect() did not fail")
    ends = [*_ends(Side.CLIENT, client, server, end_ns), *_ends(Side.SERVER, server, client, end_ns)]
    ended = Ended.RST if any(end.is_rst for end in ends) else Ended.FIN
    # accept() returns a connection whose SYN-ACK the client has acknowledged. If the SYN carried data, it can come before.
    answered_by_ns = max(server.find("accept").exit_ns, connect.exit_ns)
    answered = Bracket.middle(start.low, answered_by_ns)
    return Truth(start, answered, [ended], ends, _syns_again(start.low, answered_by_ns))


def _syns_again(begun_ns: int, answered_by_ns: int) -> Bracket:
    """Return how often the SYN can have been retransmitted before it was answered."""
    return Bracket.early(0, (answered_by_ns - begun_ns) // SYN_INTERVAL_NS)


def seen_at(place: Side, truth: Truth, carried: OnWire) -> Truth:
    """Return the truth at one host's interface: `truth` narrowed by the wire's log.

    The log gives how often each segment passed the interface. A segment that the host sent passed before it arrived on
    the wire; one that it received passed after it left the wire.
    """

    def passed(sender: Side, flag: int) -> tuple[Rows, int, int]:
        """Return one side's SYN or FIN segments, and the earliest and latest time at which the first of them passed."""
        way = carried.to_server if sender is Side.CLIENT else carried.to_client
        own = sender is place
        found = way.left if own else way.arrived
        found = found[segment_parser.has(found, flag)]
        if not len(found):
            return found, 0, FOREVER_NS
        if own:
            return found, 0, int(found["arrived_high_ns"].min())
        return found, int(found["sent_low_ns"].min()), FOREVER_NS

    syns, low_ns, high_ns = passed(Side.CLIENT, SYN)
    again = max(0, len(syns) - 1)
    ends, fins_again = [], 0
    for end in truth.ends:
        fins, end_low_ns, end_high_ns = passed(end.side, RST if end.is_rst else FIN)
        fins_again += max(0, len(fins) - 1)
        ends.append(end._replace(low_ns=max(end.low_ns, end_low_ns), high_ns=min(end.high_ns, end_high_ns)))
    return replace(
        truth,
        start=Bracket.middle(max(truth.start.low, low_ns), min(truth.start.high, high_ns)),
        ends=ends,
        syns_again=Bracket.exactly(again),
        # A row ends when both sides' FINs have passed. Retransmissions after that are not counted.
        fins_again=Bracket.early(0, fins_again) if truth.ended == [Ended.FIN] else None,
    )


def tapped_at(place: Side, truth: Truth, seen: Seen) -> Truth:
    """Return the truth at one host's interface: `truth` narrowed by what the tap there saw."""

    def passed(sender: Side, which: Callable[[Rows], Mask], known: Bracket) -> Bracket:
        """Return when the first of some segments of one side passed TC."""
        own = sender is place
        rows = seen.left if own else seen.came
        found = first(rows, which(rows))
        if found is None:
            return known
        at = seen.leaving(found) if own else seen.coming(found)
        return Bracket.middle(*known.common(at))

    def ends(end: End) -> End:
        flag = RST if end.is_rst else FIN
        at = passed(end.side, lambda rows: segment_parser.has(rows, flag), Bracket.middle(end.low_ns, end.high_ns))
        return end._replace(low_ns=at.low, high_ns=at.high)

    return replace(
        truth,
        syns_again=_before_the_end(truth.syns_again, place, seen),
        start=passed(Side.CLIENT, segment_parser.opens, truth.start),
        answered=passed(Side.SERVER, lambda rows: segment_parser.has(rows, SYN | ACK), truth.answered),
        ends=[ends(end) for end in truth.ends],
    )


def _before_the_end(syns_again: Bracket, place: Side, seen: Seen) -> Bracket:
    """Return how often the SYN was retransmitted until both FINs had passed: a copy can be that late on a busy machine."""
    rows = seen.left if place is Side.CLIENT else seen.came
    syns = rows[segment_parser.opens(rows)]
    fins = [first(some, segment_parser.has(some, FIN)) for some in (seen.left, seen.came)]
    if any(fin is None for fin in fins):
        return syns_again
    late = syns["high_ns"] >= max(since(fin) for fin in fins)
    if not late.any():
        return syns_again
    return Bracket.late(min(syns_again.low, max(0, int((~late).sum()) - 1)), syns_again.high)


def one_way(truth: Truth, side: Side) -> Truth:
    """Return the truth at an interface that only the segments of one side pass.

    The server's first segment is its SYN-ACK, which follows the SYN.
    """
    ends = [end for end in truth.ends if end.side is side]
    start = truth.start if side is Side.CLIENT else truth.answered
    return replace(truth, start=start, ends=ends, ended=[Ended.RST if end.is_rst else Ended.FIN for end in ends])


def _ends(side: Side, mine: Timeline, other: Timeline, end_ns: int) -> Iterator[End]:
    """Yield the FIN or RST that one side sent: none if the other's RST had come before."""
    if mine.saw_reset is not None and mine.saw_reset.exit_ns <= mine.closing.enter_ns:
        return
    seen = other.saw_reset if mine.resets else other.saw_fin
    yield End(side, mine.closing.enter_ns, seen.exit_ns if seen else end_ns, is_rst=mine.resets)
