"""The segments of each connection in a wire's log: how many passed each host's interface, and when.

A segment has passed its sender's interface when it arrives on the wire. It passes its receiver's interface after it has
left the wire. Some links keep no log; then the truth comes from the applications alone.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lab.arrays import Rows
from lab.network import segment_parser
from lab.network.conditions import FOREVER_NS
from lab.network.frame_log import FRAME, Fate, Mark, WireLog, hold_ns
from lab.network.segment_parser import SEGMENT
from lab.packet import ACK, FIN, SYN
from lab.tcp import Flow
from lab.timeline import Connection
from lab.truth.directions import connections_in_time

_OF_FRAME = ("arrived_low_ns", "arrived_high_ns", "sent_low_ns", "sent_high_ns", "length", "fate", "marks")
_CARRIED = np.dtype(
    [*((name, SEGMENT[name]) for name in SEGMENT.names or ()), *((name, FRAME[name]) for name in _OF_FRAME)]
)


class Counts(NamedTuple):
    """Traffic of one interface in one direction; `size` counts bytes of whole frames, `payload` bytes of TCP data."""

    packets: int
    size: int
    payload: int
    syns: int
    fins: int

    def __str__(self) -> str:
        """Return all counts as one text that can be compared."""
        return ", ".join(f"{value} {name}" for name, value in self._asdict().items())


@dataclass(frozen=True)
class WireStream:
    """One direction of one connection, in the order in which the segments came to the wire.

    A copy follows its original.
    """

    carried: Rows
    """The fields of `SEGMENT`, and those of `_OF_FRAME` from the log (`FRAME`)."""

    @property
    def left(self) -> Rows:
        """Segments that passed the sender's interface, each no later than `arrived_high_ns`.

        The wire's own copies did not.
        """
        return self.carried[self.carried["marks"] & Mark.COPY == 0]

    @property
    def arrived(self) -> Rows:
        """Segments that passed the receiver's interface, each after `sent_low_ns`."""
        return self.carried[self.carried["fate"] == Fate.FORWARDED]

    @property
    def again(self) -> int:
        """Number of retransmissions that passed the sender's interface."""
        return int(segment_parser.retransmitted(self.left).sum())

    def hold_ns(self) -> int:
        """Return the shortest time (ns) that a segment was on the wire; 0 if there was none."""
        return max(0, int(hold_ns(self.arrived)[0].min(initial=np.iinfo(np.int64).max))) if len(self.arrived) else 0


@dataclass(frozen=True)
class OnWire:
    """Both directions of one connection.

    All times are the least possible ones, in nanoseconds; 0 where nothing is known.
    """

    to_server: WireStream
    to_client: WireStream

    @property
    def streams(self) -> tuple[WireStream, WireStream]:
        """Both directions, the one to the server first."""
        return self.to_server, self.to_client

    @property
    def syn_sent_ns(self) -> int:
        """Least time that the client waited for an answer to its first SYN."""
        syns = self.to_server.left[segment_parser.opens(self.to_server.left)]
        answers = self.to_client.arrived[segment_parser.has(self.to_client.arrived, SYN | ACK)]
        return _least_between(syns, answers)

    @property
    def syn_acks(self) -> int:
        """How often the server sent a SYN-ACK."""
        return int(segment_parser.has(self.to_client.left, SYN | ACK).sum())

    @property
    def syn_recv_ns(self) -> int:
        """Least time that the server waited for the acknowledgement of its first SYN-ACK."""
        answers = self.to_client.left[segment_parser.has(self.to_client.left, SYN | ACK)]
        arrived = self.to_server.arrived
        return _least_between(answers, arrived[~segment_parser.has(arrived, SYN)])

    @property
    def opened_by_data(self) -> bool:
        """Whether the segment that ended the handshake at the server carried data: the first one after the SYN."""
        after = self.to_server.arrived[~segment_parser.has(self.to_server.arrived, SYN)]
        return len(after) > 0 and bool(after["payload"][after["sent_low_ns"].argmin()])

    def fin_ns(self, *, by_client: bool) -> int:
        """Return the least time that one side waited for the acknowledgement of its first FIN."""
        mine, other = (self.to_server, self.to_client) if by_client else (self.to_client, self.to_server)
        fins = mine.left[segment_parser.has(mine.left, FIN)]
        if not len(fins):
            return 0
        end = segment_parser.end_of(fins[0])
        answers = other.arrived
        return _least_between(fins, answers[segment_parser.has(answers, ACK) & (answers["ack"] == end)])


class WireTruth:
    """A wire's log by flow, from a time (ns) on: earlier frames may belong to an earlier use of the same flow."""

    def __init__(self, log: WireLog, since_ns: int = 0) -> None:
        parsed = log.tcp()
        parsed = parsed[log.frames["arrived_high_ns"][parsed["frame"]] >= since_ns]
        carried = segment_parser.joined(parsed, log.frames, _CARRIED)
        self._flows = segment_parser.by_flow(carried)

    def stream(self, *flows: Flow, since_ns: int = 0, until_ns: int = FOREVER_NS) -> WireStream:
        """Return the segments from the first end of each flow to the second that came to the wire between two times."""
        nothing = np.zeros(0, _CARRIED)
        found = np.concatenate([nothing, *(self._flows.get(segment_parser.key_of(flow), nothing) for flow in flows)])
        came_ns = found["arrived_low_ns"]
        return WireStream(found[(came_ns >= since_ns) & (came_ns < until_ns)])

    def shortest_round_trip_ns(self, flow: Flow) -> int:
        """Return the least time that the wire held a segment of a flow, plus the least for an answer to it."""
        return self.stream(flow).hold_ns() + self.stream(flow.reversed()).hold_ns()

    def of(self, connections: list[Connection]) -> list[OnWire]:
        """Return each connection's segments, in the order of `connections`. A flow may be used more than once."""
        found: dict[int, OnWire] = {}
        for connection, since_ns, until_ns in connections_in_time(connections):
            flow = connection.client.flow
            streams = [self.stream(it, since_ns=since_ns, until_ns=until_ns) for it in (flow, flow.reversed())]
            found[id(connection)] = OnWire(*streams)
        return [found[id(connection)] for connection in connections]


def counts(passed: Rows) -> Counts:
    """Count the segments that passed an interface."""
    fins, syns = (int(segment_parser.has(passed, flag).sum()) for flag in (FIN, SYN))
    return Counts(len(passed), int(passed["length"].sum()), int(passed["payload"].sum()), syns, fins)


def _least_between(sent: Rows, answers: Rows) -> int:
    """Return the least time from the first segment sent to the arrival of the first answer; 0 if either is missing."""
    if not len(sent) or not len(answers):
        return 0
    return max(0, int(answers["sent_low_ns"].min()) - int(sent["arrived_high_ns"].min()))
