"""When the segments that open and end a connection must have passed, given what both applications did; and judging by it.

A SYN leaves inside connect(). A FIN leaves at the earliest when its side enters close() or shutdown(); whoever reads the end of the
stream has received it. (Not: when close() returns. Congestion control may hold a FIN back, by pacing or by its window.) Stamps are
nanoseconds on `CLOCK_MONOTONIC`.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lab.arrays import UNKNOWN, Rows
from lab.network import segment_parser
from lab.network.conditions import FOREVER_NS
from lab.network.segment_parser import Flag
from lab.probes.duration.measure import Ended, Side
from lab.tcp import Flow, address_text
from lab.timeline import Call, Connection, Timeline
from lab.truth.wire import Carried
from lab.verdict import Bracket, Check, Judge

if TYPE_CHECKING:
    from lab.observation import Observed

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
        return _bracket(min(end.low_ns for end in self.ends), min(end.high_ns for end in self.ends))

    @property
    def second_fin(self) -> Bracket | None:
        """When the second FIN passed, None when there was none."""
        if self.ended != [Ended.FIN]:
            return None
        return _bracket(max(end.low_ns for end in self.ends), max(end.high_ns for end in self.ends))

    @property
    def closed_first(self) -> list[Side]:
        """Who can have been first."""
        earliest = min(end.high_ns for end in self.ends)
        return [end.side for end in self.ends if end.low_ns < earliest]


def truth_of(connection: Connection, end_ns: int) -> Truth:
    """Work out what must have happened; `end_ns` is a time at which the connection was over."""
    client, server = connection.client, connection.server
    connect = client.find("connect")
    start = _bracket(connect.enter_ns, connect.exit_ns)
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


def _seen_at(place: Side, truth: Truth, carried: Carried) -> Truth:
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
        start=_bracket(max(truth.start.low, low_ns), min(truth.start.high, high_ns)),
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


def judge_connections(observed: "Observed", judge: Judge, rows: Rows) -> Iterator[Check]:
    """Compare the rows of each interface with what both applications know; yields every check."""
    everywhere = [(truth_of(connection, observed.end_ns), its) for connection, its in observed.carried()]
    flows = [connection.client.flow for connection in observed.connections]
    for ifindex, (ifname, inode) in observed.recording.devices.items():
        if inode not in observed.inodes:
            continue
        side = (Side.CLIENT, Side.SERVER)[observed.inodes.index(inode)]
        place = f"at {ifname} of the {side.name.lower()}"
        truths = [_seen_at(side, truth, its) if its else truth for truth, its in everywhere]
        here = rows[rows["ifindex"] == ifindex]
        mine, others = _matched(here, flows, truths)
        yield judge.equal(f"all connections {place}", "rows without a connection", 0, others)
        for flow, truth, row in zip(flows, truths, mine, strict=True):
            yield from _judge_row(judge, f"{flow} {place}", flow, truth, None if row is None else here[row])


def _judge_row(judge: Judge, subject: str, flow: Flow, truth: Truth, row: np.void | None) -> Iterator[Check]:
    yield judge.equal(subject, "seen", "once", "never" if row is None else "once")
    if row is None:
        return
    if flow.laddr not in _ANYWHERE:
        yield judge.equal(subject, "client's address", flow.laddr, address_text(row["saddr"].tobytes()))
    start = truth.start
    yield judge.duration(subject, "first SYN at", start, int(row["start_ns"]))
    yield judge.one_of(subject, "ended by", [ended.name for ended in truth.ended], Ended(row["ended"]).name)
    yield judge.count(subject, "SYN retransmissions", truth.syns_again, int(row["syn_retransmissions"]))
    if truth.fins_again:
        yield judge.count(subject, "FIN retransmissions", truth.fins_again, int(row["fin_retransmissions"]))
    if truth.ended[0] in (Ended.FIN, Ended.RST):
        answer = _bracket(0, truth.answered_by_ns - start.low)
        yield judge.duration(subject, "first SYN to SYN-ACK", answer, int(row["synack_ns"]))
    else:
        yield judge.equal(subject, "first SYN to SYN-ACK", None, _or_none(row["synack_ns"]))
    if truth.ends:
        sides = [side.name for side in truth.closed_first]
        yield judge.one_of(subject, "closed first by", sides, Side(row["closed_first"]).name)
        yield judge.duration(subject, "first FIN or RST at", truth.first_end, int(row["end_ns"]))
        duration = _between(start, truth.first_end)
        yield judge.duration(subject, "first SYN to first FIN or RST", duration, int(row["duration_ns"]))
    else:
        yield judge.equal(subject, "first SYN to first FIN or RST", None, _or_none(row["duration_ns"]))
    if (second_fin := truth.second_fin) is not None:
        second = _between(start, second_fin)
        yield judge.duration(subject, "first SYN to second FIN", second, int(row["second_fin_ns"]))
    else:
        yield judge.equal(subject, "first SYN to second FIN", None, _or_none(row["second_fin_ns"]))


def _matched(rows: Rows, flows: list[Flow], truths: list[Truth]) -> tuple[list[int | None], int]:
    """For each connection the index of its row; and how many rows of such connections are nobody's.

    The n-th use of a flow is told by when it was opened; a client that was refused may not know its port, and then each row
    goes to the connection that was over first, of those that it can be.
    """
    waiting: dict[tuple[str, int, int], list[int]] = defaultdict(list)
    for number, flow in sorted(enumerate(flows), key=lambda pair: truths[pair[0]].start.high):
        waiting[flow.raddr, flow.rport, flow.lport].append(number)
    servers = {(flow.raddr, flow.rport) for flow in flows}
    mine: list[int | None] = [None] * len(flows)
    left = []
    for index, row in enumerate(rows):
        server = (address_text(row["daddr"].tobytes()), int(row["dport"]))
        queues = [waiting[*server, port] for port in (int(row["sport"]), 0)]
        fits = [
            (queue, number)
            for queue in queues
            for number in queue
            if truths[number].start.low <= row["start_ns"] <= truths[number].start.high
        ]
        if fits:
            queue, number = fits[0]
            queue.remove(number)
            mine[number] = index
        elif server in servers:
            left.append((index, queues))
    nobodys = 0
    for index, queues in left:  # rows with a wrong start are judged as such
        queue = queues[0] or queues[1]
        if queue:
            mine[queue.pop(0)] = index
        else:
            nobodys += 1
    return mine, nobodys


def _bracket(low: int, high: int) -> Bracket:
    return Bracket(low, high, (low + high) // 2)


def _between(start: Bracket, end: Bracket) -> Bracket:
    """How long it can have taken from one point in time to a later one."""
    return _bracket(max(0, end.low - start.high), end.high - start.low)


def _or_none(value: int) -> int | None:
    return None if value == UNKNOWN else int(value)
