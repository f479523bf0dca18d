"""What two applications' conversations must have put on the wire: how many packets and bytes, at the least and at the most.

The payload is what the applications sent and read. A retransmission adds to it; how many there were is told by the hosts' own
counters, and that there were none makes most brackets a single number.
"""

from dataclasses import dataclass
from typing import NamedTuple

from lab.linux.tcp_counters import Sent
from lab.timeline import Call, Connection, Timeline
from lab.verdict import Bracket

_MTU = 1500
_ETHERNET, _TCP, _MOST_OPTIONS = 14, 20, 40
_ANSWERED = ("", "ECONNREFUSED")


class Headers(NamedTuple):
    """Fewest and most bytes of headers of one packet."""

    fewest: int
    most: int


@dataclass(frozen=True)
class Volumes:
    """One direction of every connection with the same flow: who sent, who received, and the counters of the sender's host."""

    connections: list[Connection]
    role: str
    sent: Sent
    end_ns: int

    @property
    def headers(self) -> Headers:
        """Ethernet, IP and TCP without and with as many options as there can be."""
        fewest = _ETHERNET + (40 if ":" in self.connections[0].client.flow.laddr else 20) + _TCP
        return Headers(fewest, fewest + _MOST_OPTIONS)

    @property
    def payload(self) -> Bracket:
        """Bytes of data: at the least what was read, at the most what was sent and sent again."""
        read = sum(_bytes(_receiver(connection, self.role), "recv") for connection in self.connections)
        sent = sum(_bytes(_sender(connection, self.role), "send") for connection in self.connections)
        return Bracket(read, sent + self.sent.retransmitted * _MTU, sent)

    @property
    def syns(self) -> Bracket:
        """Segments with SYN."""
        count = len(self.connections)
        if self.role == "server":
            count = sum(not connection.client.find("connect").error for connection in self.connections)
        return Bracket(count, count + self.sent.retransmitted_syns, count)

    @property
    def fins(self) -> Bracket:
        """Segments with FIN: one unless a RST has come before it."""
        certain = sum(_is_graceful(connection) for connection in self.connections)
        possible = sum(_may_send_fin(connection, self.role) for connection in self.connections)
        return Bracket(certain, possible + self.sent.retransmitted, certain)

    @property
    def packets(self) -> Bracket:
        """Segments: as few as the handshake and the data need, and no more than all that the host has sent."""
        answers = sum(connection.client.find("connect").error in _ANSWERED for connection in self.connections)
        opening = len(self.connections) if self.role == "client" else answers
        least = opening + -(-self.payload.low // (_MTU - self.headers.fewest + _ETHERNET))
        most = max(least, self.sent.segments + self.sent.retransmitted)
        return Bracket(least, most, least)

    @property
    def first(self) -> Bracket:
        """When the first packet passed either host's interface: the handshake is over when connect() returns."""
        connects = [connection.client.find("connect") for connection in self.connections]
        call = min(connects, key=lambda connect: connect.enter_ns)
        return Bracket(call.enter_ns, call.exit_ns, call.enter_ns)

    @property
    def last(self) -> Bracket:
        """When the last packet passed: no earlier than the last FIN was asked for."""
        earliest = self.first.low
        for connection in self.connections:
            if _is_graceful(connection):
                earliest = max(earliest, _closing(_sender(connection, self.role)).enter_ns)
        return Bracket(earliest, self.end_ns, earliest)


def segments_sent(sent: Sent) -> Bracket:
    """All TCP packets of a host: retransmitted SYN-ACKs are in both counters."""
    return Bracket(sent.segments, sent.segments + sent.retransmitted, sent.segments + sent.retransmitted)


def _sender(connection: Connection, role: str) -> Timeline | None:
    return connection.client if role == "client" else connection.server


def _receiver(connection: Connection, role: str) -> Timeline | None:
    return connection.server if role == "client" else connection.client


def _bytes(timeline: Timeline | None, name: str) -> int:
    return 0 if timeline is None else sum(call.result for call in timeline.calls if call.name == name)


def _closing(timeline: Timeline | None) -> Call:
    if timeline is None:
        raise LookupError("a connection that nobody accepted was not closed in good order")
    return next(call for call in timeline.calls if call.name in ("shutdown", "close"))


def _resets(timeline: Timeline | None) -> bool:
    return timeline is not None and any(call.name == "linger0" for call in timeline.calls)


def _is_graceful(connection: Connection) -> bool:
    """Tell whether both sides have ended the connection with a FIN."""
    both = (connection.client, connection.server)
    return all(
        side is not None and not any(call.error or call.name == "linger0" for call in side.calls) for side in both
    )


def _may_send_fin(connection: Connection, role: str) -> bool:
    return not connection.client.find("connect").error and not _resets(_sender(connection, role))
