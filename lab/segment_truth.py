"""When the segments that open and end a connection must have passed, given what both applications did; and judging by it.

A SYN leaves inside connect(). A FIN leaves at the earliest when its side enters close() or shutdown(); whoever reads the end of the
stream has received it. (Not: when close() returns. Congestion control may hold a FIN back, by pacing or by its window.) Stamps are
nanoseconds on `CLOCK_MONOTONIC`.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lab.lifetimes import Ended, Rows, Side
from lab.measure import UNKNOWN
from lab.tcp import Flow, address_text
from lab.timeline import Call, Connection, Timeline
from lab.verdict import Bracket, Check, Judge

if TYPE_CHECKING:
    from lab.observed import Observed

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
    """What is known of a connection's life: brackets of points in time, and what else its rows must say."""

    start: Bracket
    answered_by_ns: int
    ended: list[Ended]
    ends: list[End]

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
        return Truth(start, connect.exit_ns, [Ended.REFUSED], [rst])
    if connect.error:  # given up: whether for good is a matter of the patience of whoever watches
        return Truth(start, connect.exit_ns, [Ended.TIMEOUT, Ended.OPEN], [])
    if server is None:
        raise LookupError(f"nobody accepted {client.flow}, and its client did not see an error")
    ends = [*_ends(Side.CLIENT, client, server, end_ns), *_ends(Side.SERVER, server, client, end_ns)]
    ended = Ended.RST if any(end.is_rst for end in ends) else Ended.FIN
    # The server accepts what the client has acknowledged: the SYN-ACK was there before.
    return Truth(start, server.find("accept").exit_ns, [ended], ends)


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
    """Compare the rows of each interface (`lab.lifetimes.lifetimes`) with what both applications know; yields every check."""
    truths = [truth_of(connection, observed.end_ns) for connection in observed.connections]
    flows = [connection.client.flow for connection in observed.connections]
    for ifindex, (ifname, inode) in observed.recording.devices.items():
        if inode not in observed.inodes:
            continue
        place = f"at {ifname} of the {('client', 'server')[observed.inodes.index(inode)]}"
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
    most_again = (truth.answered_by_ns - start.low) // _SYN_INTERVAL_NS
    yield judge.count(subject, "SYN retransmissions", Bracket(0, most_again, 0), int(row["syn_retransmissions"]))
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
