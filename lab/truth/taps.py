"""What the taps at the hosts' interfaces prove about TCP: bounds from the kernel's order of calls.

- A frame that a host sends passes TC egress, then the tap (`__dev_queue_xmit()`, `dev_queue_xmit_nit()`). Whatever caused it
  happened before.
- A frame that comes passes the tap, then TC ingress, then TCP (`__netif_receive_skb_core()`). Whatever it caused happened after.
- What a frame causes is done in the softirq that received it, which no thread interrupts: by the next tick of its CPU
  (`lab/network/taps.py`). Which CPU that is, is not known; so it is done by the latest of the next ticks of all CPUs. If the
  application was inside a call on this socket, the work may have waited for the end of that call (`sk_add_backlog()`).
  Kernels with PREEMPT_RT interrupt softirqs; there the ticks prove nothing.

Times are nanoseconds on `CLOCK_MONOTONIC`.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from lab.arrays import Integers, Rows, in_order
from lab.network import segment_parser
from lab.network.conditions import FOREVER_NS
from lab.network.segment_parser import SEGMENT, covers, end_of, first, reaches
from lab.network.taps import TAPPED, TapLog
from lab.packet import ACK
from lab.tcp import UNSPECIFIED
from lab.timeline import Call, Connection, Timeline
from lab.truth.directions import connections_in_time
from lab.verdict import Bracket

_OF_FRAME = ("low_ns", "high_ns", "outgoing", "early", "tap")
_SEEN = np.dtype(
    [*((name, SEGMENT[name]) for name in SEGMENT.names or ()), *((name, TAPPED[name]) for name in _OF_FRAME)]
)
_UNLOCKED = ("sleep", "poll")
"""Calls that do not hold the socket while they wait (tcp_poll())."""


@dataclass(frozen=True)
class Seen:
    """The segments of one connection at one of its hosts, in order of time.

    - `left`, `came`: sent and received by the host; fields of `SEGMENT`, `low_ns` and `high_ns` of the stamp of its `tap`, and
      `early`.
    - `ticks`: of each CPU; empty if they prove nothing.
    - `calls`: of the host's application.
    """

    left: Rows
    came: Rows
    ticks: list[Integers]
    calls: list[Call]

    def at(self, tap: int) -> Self:
        """Return what one of the host's taps saw."""
        left, came = (rows[rows["tap"] == tap] for rows in (self.left, self.came))
        return replace(self, left=left, came=came)

    @cached_property
    def sent_again(self) -> bool:
        """Whether a segment in either direction repeats another."""
        return any(segment_parser.retransmitted(rows).any() for rows in (self.left, self.came))

    @cached_property
    def gap_ns(self) -> int:
        """Time of the first frame that came before an earlier one or repeats another, for ever if there is none.

        From then on TCP can have refused a frame, or kept it for later. One that it did not take would have come again.
        """
        if self.sent_again or not len(self.came):
            return 0
        begins = (self.came["seq"].astype(np.int64) - int(self.came["seq"][0])) % 2**32
        ends = begins + segment_parser.sequence_length(self.came)
        early = begins > np.maximum.accumulate(np.append(ends[:1], ends[:-1]))
        return since(first(self.came, early)) if early.any() else FOREVER_NS

    def leaving(self, segment: np.void) -> Bracket:
        """Return when a segment that the host sent passed TC egress, not counting the application's call that sent it.

        What it acknowledges had come before.
        """
        causes = segment_parser.sequence_length(self.came) > 0
        causes &= reaches(segment_parser.ends(self.came), int(segment["ack"]))
        cause = first(self.came, causes) if segment["flags"] & ACK else None
        return Bracket.late(since(cause), by(segment))

    def coming(self, segment: np.void) -> Bracket:
        """Return when a segment that came passed TC ingress, and reached TCP.

        If no segment before it had reached as far, what acknowledges it was sent later.
        """
        by_ns, end = self.interrupt_ns(by(segment)), end_of(segment)
        if end != segment["seq"] and first(self.came, reaches(segment_parser.ends(self.came), end)) == segment:
            by_ns = min(by_ns, by(first(self.left, covers(self.left, end))))
        return Bracket.early(since(segment), max(by_ns, since(segment)))

    def done_ns(self, low_ns: int, high_ns: int) -> int:
        """Return a time by which the work that a frame caused was done, which came between two times."""
        by_ns = self.interrupt_ns(high_ns)
        inside = (
            call.exit_ns
            for call in self.calls
            if call.name not in _UNLOCKED and call.enter_ns < by_ns and call.exit_ns > low_ns
        )
        return max(by_ns, *inside, 0)

    def interrupt_ns(self, came_ns: int) -> int:
        """Return a time by which the softirq was over that received a frame by `came_ns`."""
        nexts = [int(np.searchsorted(ticks, came_ns, "right")) for ticks in self.ticks]
        if not nexts or any(at == len(ticks) for at, ticks in zip(nexts, self.ticks, strict=True)):
            return FOREVER_NS
        return max(int(ticks[at]) for at, ticks in zip(nexts, self.ticks, strict=True))


def since(segment: "np.void | None") -> int:
    """Return the earliest time of a segment's stamp, 0 if there is none."""
    return 0 if segment is None else int(segment["low_ns"])


def by(segment: "np.void | None") -> int:
    """Return the latest time of a segment's stamp, for ever if there is none."""
    return FOREVER_NS if segment is None else int(segment["high_ns"])


class TapTruth:
    """The segments of all connections at the taps, from a time (ns) on: earlier ones may belong to an earlier use of a flow.

    `devices`: the tapped interfaces, each by the inode of its namespace and its ifindex, in the order of their taps.
    """

    def __init__(self, log: TapLog, since_ns: int) -> None:
        frames = log.frames[log.frames["low_ns"] >= since_ns]
        parsed = segment_parser.parse(frames["head"], frames["length"])
        seen = segment_parser.joined(parsed, frames, _SEEN)
        inode = np.array([*(inode for inode, _ in log.devices), 0])[seen["tap"]]
        self.devices = tuple(log.devices)
        self._ticks = [] if _preemptible() else log.ticks
        self._by_place: dict[tuple[int, bytes, int], Rows] = {}
        for place in np.unique(inode):
            for outgoing in (0, 1):
                here = seen[(inode == place) & (seen["outgoing"] == outgoing)]
                here = in_order(here, "low_ns")
                for key, rows in segment_parser.by_flow(here).items():
                    self._by_place[int(place), key, outgoing] = rows

    def of(
        self, connections: list[Connection], inodes: tuple[int, int]
    ) -> "dict[int, tuple[Seen | None, Seen | None]]":
        """Return what was seen at the client's and at the server's host, by the id() of each connection.

        None if the application does not exist or does not know its address, and behind NAT, where its packets have another.
        """
        found: dict[int, tuple[Seen | None, Seen | None]] = {}
        for connection, since_ns, until_ns in connections_in_time(connections):
            client, server = (
                self._seen(inode, timeline, since_ns, until_ns)
                for inode, timeline in zip(inodes, (connection.client, connection.server), strict=True)
            )
            found[id(connection)] = client, server
        return found

    def _seen(self, inode: int, timeline: Timeline | None, since_ns: int, until_ns: int) -> Seen | None:
        if timeline is None or timeline.flow.laddr in UNSPECIFIED:
            return None
        left, came = (
            self._by_place.get((inode, segment_parser.key_of(flow), outgoing), np.zeros(0, _SEEN))
            for flow, outgoing in ((timeline.flow, 1), (timeline.flow.reversed(), 0))
        )
        left, came = (rows[(rows["low_ns"] >= since_ns) & (rows["low_ns"] < until_ns)] for rows in (left, came))
        return Seen(left, came, self._ticks, timeline.calls) if len(left) + len(came) else None


def _preemptible() -> bool:
    """Return whether threads can interrupt softirqs on this kernel."""
    return Path("/sys/kernel/realtime").exists()
