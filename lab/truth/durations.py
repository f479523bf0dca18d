"""When the segments that open and end a connection must have passed, given what both applications did; and judging by it.

A SYN leaves inside connect(). A FIN leaves at the earliest when its side enters close() or shutdown(); whoever reads the end of the
stream has received it. (Not: when close() returns. Congestion control may hold a FIN back, by pacing or by its window.) Stamps are
nanoseconds on `CLOCK_MONOTONIC`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from lab.arrays import Rows
from lab.network import segment_parser
from lab.network.conditions import FOREVER_NS
from lab.network.segment_parser import Flag
from lab.tcp import Ended, Side
from lab.timeline import Call, Connection, Timeline
from lab.truth.wire import OnWire
from lab.verdict import Bracket

_SYN_INTERVAL_NS = 990_000_000
"""A SYN is repeated a second later at the earliest (RFC 6298, 2.1), by a timer that counts whole ticks."""
_ANYWHERE = ("0.0.0.0", "::")  # noqa: S104 (the address of a socket that has none yet)


class End(NamedTuple):
    """One side's FIN or RST, and when it can have passed, at whichever interface."""

    side: Side
    low_ns: int
    high_ns: int
    is_rst: bool


@dataclass(frozen=True)
class Truth:
    """What is known of a connection's life: brackets of points in time, and what else its rows must say.

    How often a FIN was sent again, only the wire can know.
    """

    start: Bracket
    answered_by_ns: int
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
        """When the second FIN passed, None when there was none."""
        if self.ended != [Ended.FIN]:
            return None
        return Bracket.middle(max(end.low_ns for end in self.ends), max(end.high_ns for end in self.ends))

    @property
    def closed_first(self) -> list[Side]:
        """Who can have been first."""
        earliest = min(end.high_ns for end in self.ends)
        return [end.side for end in self.ends if end.low_ns < earliest]


def truth_of(connection: Connection, end_ns: int) -> Truth:
    """Work out what must have happened; `end_ns` is a time at which the connection was over."""
    client, server = connection.client, connection.server
    connect = client.find("connect")
    start = Bracket.middle(connect.enter_ns, connect.exit_ns)
    if connect.error == "ECONNREFUSED":
        rst = End(Side.SERVER, connect.enter_ns, connect.exit_ns, is_rst=True)
        return Truth(start, connect.exit_ns, [Ended.REFUSED], [rst], _syns_again(start.low, connect.exit_ns))
    if connect.error:  # given up: whether for good is a matter of the patience of whoever watches
        again = _syns_again(start.low, connect.exit_ns)
        return Truth(start, connect.exit_ns, [Ended.TIMEOUT, Ended.OPEN], [], again)
    if server is None:
        raise LookupError(f"nobody accepted {client.flow}, and its client did not see an error")
    ends = [*_ends(Side.CLIENT, client, server, end_ns), *_ends(Side.SERVER, server, client, end_ns)]
    ended = Ended.RST if any(end.is_rst for end in ends) else Ended.FIN
    # The server accepts what the client has acknowledged: the SYN-ACK was there before.
    answered_by_ns = server.find("accept").exit_ns
    return Truth(start, answered_by_ns, [ended], ends, _syns_again(start.low, answered_by_ns))


def _syns_again(begun_ns: int, answered_by_ns: int) -> Bracket:
    """How often a SYN can have been sent again before it was answered."""
    return Bracket(0, (answered_by_ns - begun_ns) // _SYN_INTERVAL_NS, 0)


def seen_at(place: Side, truth: Truth, carried: OnWire) -> Truth:
    """Add what the wire's log knows of one host's interface: how often each segment passed it, and by when or after which time."""

    def passed(sender: Side, flag: Flag) -> tuple[Rows, int, int]:
        """Return one side's SYN or FIN segments, and the earliest and latest time at which the first of them passed."""
        way = carried.to_server if sender is Side.CLIENT else carried.to_client
        own = sender is place
        found = way.left if own else way.arrived
        found = found[segment_parser.has(found, flag)]
        if not len(found):
            return found, 0, FOREVER_NS
        return (
            (found, 0, int(found["arrived_high_ns"].min()))
            if own
            else (found, int(found["sent_low_ns"].min()), FOREVER_NS)
        )

    syns, low_ns, high_ns = passed(Side.CLIENT, Flag.SYN)
    again = max(0, len(syns) - 1)
    ends, fins_again = [], 0
    for end in truth.ends:
        fins, end_low_ns, end_high_ns = passed(end.side, Flag.RST if end.is_rst else Flag.FIN)
        fins_again += max(0, len(fins) - 1)
        ends.append(end._replace(low_ns=max(end.low_ns, end_low_ns), high_ns=min(end.high_ns, end_high_ns)))
    return replace(
        truth,
        start=Bracket.middle(max(truth.start.low, low_ns), min(truth.start.high, high_ns)),
        ends=ends,
        syns_again=Bracket(again, again, again),
        # When both sides' FINs have passed it is over, and what is sent again after that does not count.
        fins_again=Bracket(0, fins_again, 0) if truth.ended == [Ended.FIN] else None,
    )


def _ends(side: Side, mine: Timeline, other: Timeline, end_ns: int) -> Iterator[End]:
    """Yield the FIN or RST that one side has sent; none when the other's RST had come before."""
    closing = next(call for call in mine.calls if call.name in ("shutdown", "close"))
    resets = any(call.name == "linger0" for call in mine.calls)
    was_reset = _told(mine, ("ECONNRESET", "EPIPE"))
    if was_reset is not None and was_reset.exit_ns <= closing.enter_ns:
        return
    told = _told(other, ("ECONNRESET", "EPIPE")) if resets else _told(other, ("",))
    yield End(side, closing.enter_ns, told.exit_ns if told else end_ns, is_rst=resets)


def _told(timeline: Timeline, errors: Sequence[str]) -> Call | None:
    """Return the call that told an application of the other side's FIN, or with an errno of its RST."""
    for call in timeline.calls:
        if (call.name == "recv" and call.result == 0 and call.error in errors) or (call.error and call.error in errors):
            return call
    return None
