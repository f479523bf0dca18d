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
from pathlib import Path
from typing import Self

import numpy as np

from lab.arrays import Integers, Mask, Rows
from lab.network import segment_parser
from lab.network.conditions import FOREVER_NS
from lab.network.segment_parser import SEGMENT, Flag
from lab.network.taps import TAPPED, TapLog
from lab.tcp import UNSPECIFIED
from lab.timeline import Call, Connection, Timeline
from lab.truth.directions import connections_in_time
from lab.verdict import Bracket

_OF_FRAME = ("low_ns", "high_ns", "outgoing", "early")
_SEEN = np.dtype(
    [
        *((name, SEGMENT[name]) for name in SEGMENT.names or ()),
        *((name, TAPPED[name]) for name in _OF_FRAME),
        ("ifindex", "<i4"),
    ]
)
_UNLOCKED = ("sleep", "poll")
"""Calls that do not hold the socket while they wait (tcp_poll())."""


@dataclass(frozen=True)
class Seen:
    """The segments of one connection at one of its hosts, in order of time.

    - `left`, `came`: sent and received by the host; fields of `SEGMENT`, the `ifindex` of the tapped interface, `low_ns` and
      `high_ns` of the tap's stamp, and `early`.
    - `ticks`: of each CPU; empty if they prove nothing.
    - `calls`: of the host's application.
    """

    left: Rows
    came: Rows
    ticks: list[Integers]
    calls: list[Call]

    def at(self, ifindex: int) -> Self:
        """Return what was seen at one of the host's interfaces."""
        left, came = (rows[rows["ifindex"] == ifindex] for rows in (self.left, self.came))
        return replace(self, left=left, came=came)

    def leaving(self, segment: np.void) -> Bracket:
        """Return when a segment that the host sent passed TC egress, not counting the application's call that sent it.

        What it acknowledges had come before.
        """
        causes = segment_parser.sequence_length(self.came) > 0
        causes &= (_ends(self.came) - int(segment["ack"])) % 2**32 < 2**31
        cause = first(self.came, causes) if segment["flags"] & Flag.ACK else None
        return Bracket.late(0 if cause is None else int(cause["low_ns"]), int(segment["high_ns"]))

    def coming(self, segment: np.void) -> Bracket:
        """Return when a segment that came passed TC ingress, and reached TCP.

        If no segment before it had reached as far, what acknowledges it was sent later.
        """
        by_ns, end = self.interrupt_ns(int(segment["high_ns"])), end_of(segment)
        reaching = first(self.came, (_ends(self.came) - end) % 2**32 < 2**31)
        if reaching is not None and reaching == segment and segment_parser.sequence_length(np.atleast_1d(segment))[0]:
            answer = first(self.left, covers(self.left, end))
            by_ns = min(by_ns, FOREVER_NS if answer is None else int(answer["high_ns"]))
        return Bracket.early(int(segment["low_ns"]), max(by_ns, int(segment["low_ns"])))

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


def first(rows: Rows, which: Mask) -> "np.void | None":
    """Return the first of these rows, None if there is none."""
    index = which.argmax() if len(which) else 0
    return rows[index] if len(which) and which[index] else None


def end_of(segment: np.void) -> int:
    """Return the sequence number behind a segment."""
    return int(_ends(np.atleast_1d(segment))[0]) % 2**32


def _ends(rows: Rows) -> Integers:
    return rows["seq"].astype(np.int64) + segment_parser.sequence_length(rows)


def covers(rows: Rows, sequence: int) -> Mask:
    """Return which segments acknowledge everything before a sequence number."""
    acknowledges = segment_parser.has(rows, Flag.ACK)
    return acknowledges & ((rows["ack"].astype(np.int64) - sequence) % 2**32 < 2**31)


class TapTruth:
    """The segments of all connections at the taps, from a time (ns) on: earlier ones may belong to an earlier use of a flow.

    `devices`: the tapped interfaces, each by the inode of its namespace and its ifindex.
    """

    def __init__(self, log: TapLog, since_ns: int) -> None:
        frames = log.frames[log.frames["low_ns"] >= since_ns]
        parsed = segment_parser.parse(frames["head"], frames["length"])
        seen = np.zeros(len(parsed), _SEEN)
        for name in SEGMENT.names or ():
            seen[name] = parsed[name]
        for name in _OF_FRAME:
            seen[name] = frames[name][parsed["frame"]]
        inode, ifindex = np.array([*log.devices, (0, 0)]).T[:, frames["tap"][parsed["frame"]]]
        seen["ifindex"] = ifindex
        self.devices = frozenset(log.devices)
        self._ticks = [] if _preemptible() else log.ticks
        self._by_place: dict[tuple[int, bytes, int], Rows] = {}
        for place in np.unique(inode):
            for outgoing in (0, 1):
                here = seen[(inode == place) & (seen["outgoing"] == outgoing)]
                here = here[np.argsort(here["low_ns"], kind="stable")]
                for key, rows in segment_parser.by_flow(here).items():
                    self._by_place[int(place), key, outgoing] = rows

    def of(
        self, connections: list[Connection], inodes: tuple[int, int]
    ) -> "dict[int, tuple[Seen | None, Seen | None]]":
        """Return what was seen at the client's and at the server's host, by the id() of each connection.

        None if the application does not exist, or does not know its address.
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
        return Seen(left, came, self._ticks, timeline.calls)


def _preemptible() -> bool:
    """Return whether threads can interrupt softirqs on this kernel."""
    return Path("/sys/kernel/realtime").exists()
