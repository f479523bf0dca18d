"""Bounds of the packets and bytes on the wire, from the applications' calls and the hosts' counters.

The payload is the data that the applications sent and read. Retransmissions add to it. The hosts' counters give their
number, so most brackets are a single number where nothing was retransmitted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lab.linux.tcp_counters import Sent
from lab.timeline import Connection, Timeline
from lab.verdict import Bracket

ETHERNET_MTU = 1500
ETHERNET_HEADER, _TCP, _MOST_OPTIONS = 14, 20, 40
_ANSWERED = ("", "ECONNREFUSED")


class Headers(NamedTuple):
    """Fewest and most bytes of the headers of one packet."""

    fewest: int
    most: int


@dataclass(frozen=True)
class Volumes:
    """One direction of every connection with the same flow.

    `role` is the sender's, `sent` the counters of the sender's host, `end_ns` a time at which all of the connections
    were over, `mtu` the longest packet of the hosts' interfaces, `link_header` the bytes before each packet.
    """

    connections: list[Connection]
    role: str
    sent: Sent
    end_ns: int
    mtu: int = ETHERNET_MTU
    link_header: int = ETHERNET_HEADER

    @property
    def headers(self) -> Headers:
        """Ethernet (if there is one), IP and TCP headers, without options and with as many as fit."""
        fewest = self.link_header + (40 if ":" in self.connections[0].client.flow.laddr else 20) + _TCP
        return Headers(fewest, fewest + _MOST_OPTIONS)

    @property
    def payload(self) -> Bracket:
        """Bytes of data: at least those that were read, at most those that were sent and retransmitted."""
        read = sum(_bytes(_receiver(connection, self.role), "recv") for connection in self.connections)
        sent = sum(_bytes(_sender(connection, self.role), "send") for connection in self.connections)
        return Bracket(read, sent + self.sent.retransmitted * self.mtu, sent)

    @property
    def syns(self) -> Bracket:
        """Segments with SYN."""
        count = len(self.connections)
        if self.role == "server":
            count = sum(not connection.client.opening.error for connection in self.connections)
        return Bracket.early(count, count + self.sent.retransmitted_syns)

    @property
    def fins(self) -> Bracket:
        """Segments with FIN: one for each connection, unless a RST came before it."""
        certain = sum(_is_graceful(connection) for connection in self.connections)
        possible = sum(_may_send_fin(connection, self.role) for connection in self.connections)
        return Bracket.early(certain, possible + self.sent.retransmitted)

    @property
    def packets(self) -> Bracket:
        """Segments: at least as many as the handshake and the data need, at most as many as the host sent."""
        answers = sum(connection.client.opening.error in _ANSWERED for connection in self.connections)
        opening = len(self.connections) if self.role == "client" else answers
        least = opening + -(-self.payload.low // (self.mtu - self.headers.fewest + self.link_header))
        most = max(least, self.sent.segments + self.sent.retransmitted)
        return Bracket.early(least, most)

    def first(self, passed: Sequence[Bracket] = ()) -> Bracket:
        """Return when the first packet passed an interface: inside connect(), which returns after the handshake.

        `passed`: when the first packet of each connection passed it, as a tap saw.
        """
        connects = [connection.client.opening for connection in self.connections]
        call = min(connects, key=lambda connect: connect.enter_ns)
        low, high = (
            min((bracket[end] for bracket in passed), default=(call.enter_ns, call.exit_ns)[end]) for end in (0, 1)
        )
        return Bracket.early(max(low, call.enter_ns), min(high, call.exit_ns))

    def last(self, passed: Sequence[Bracket] = ()) -> Bracket:
        """Return when the last packet passed an interface: no earlier than the last close() or shutdown() that sent a FIN.

        `passed`: when the last packet of each connection passed it, as a tap saw.
        """
        earliest = self.first().low
        for connection in self.connections:
            sender = _sender(connection, self.role)
            if sender is not None and _is_graceful(connection):
                earliest = max(earliest, sender.closing.enter_ns)
        low, high = (max((bracket[end] for bracket in passed), default=(earliest, self.end_ns)[end]) for end in (0, 1))
        return Bracket.early(max(low, earliest), min(high, self.end_ns))


def segments_sent(sent: Sent) -> Bracket:
    """Return how many TCP packets a host sent. It is not exact: both counters include retransmitted SYN-ACKs."""
    return Bracket.late(sent.segments, sent.segments + sent.retransmitted)


def _sender(connection: Connection, role: str) -> Timeline | None:
    return connection.client if role == "client" else connection.server


def _receiver(connection: Connection, role: str) -> Timeline | None:
    return connection.server if role == "client" else connection.client


def _bytes(timeline: Timeline | None, name: str) -> int:
    return 0 if timeline is None else sum(call.result for call in timeline.calls if call.name == name)


def _is_graceful(connection: Connection) -> bool:
    """Return whether both sides ended the connection with a FIN, without an error in any call."""
    both = (connection.client, connection.server)
    return all(side is not None and not side.resets and not any(call.error for call in side.calls) for side in both)


def _may_send_fin(connection: Connection, role: str) -> bool:
    sender = _sender(connection, role)
    return not connection.client.opening.error and (sender is None or not sender.resets)
