"""Which round-trip times a kernel can have measured, given what both applications did.

TCP takes at most one RTT sample for each acknowledgement that covers something new: from the sending of the oldest segment
that it is the first to cover, if that was sent once only (RFC 6298, 3, Karn's algorithm), to its arrival. The segment leaves after
the application has entered send(); and when the application has read what its peer wrote after reading the whole message, the
acknowledgement has come.
"""

from dataclasses import dataclass
from typing import NamedTuple

from lab.timeline import Call, Connection, Timeline
from lab.verdict import Bracket

_LEAST_MSS = 536  # bytes of data that fit a segment on any path: RFC 9293 (3.7.1)
_FIRST_RETRANSMISSION_NS = 1_000_000_000  # of a SYN: RFC 6298 (2.1)


class Sent(NamedTuple):
    """Something that was sent and acknowledged: every RTT sample taken of it is at most `most_ns`.

    At most `samples` are taken of it, and when it is `certain`, at least one, in ESTABLISHED.
    """

    most_ns: int
    samples: int
    certain: bool


@dataclass(frozen=True)
class Samples:
    """What is true of all the samples of a socket together; times in nanoseconds.

    `smallest` and `largest` bracket the extremes, `total` the sum, which is None where the number of samples is not certain.
    """

    number: Bracket
    smallest: Bracket
    largest: Bracket
    total: Bracket | None


def samples(sent: list[Sent], least_ns: int = 0) -> Samples:
    """Sum up what was sent; `least_ns` is what the wire alone takes for a round trip."""
    low, high = sum(one.certain for one in sent), sum(one.samples for one in sent)
    most_ns = max(one.most_ns for one in sent)
    certain_ns = min((one.most_ns for one in sent if one.certain), default=most_ns)
    total_ns = sum(one.most_ns for one in sent)
    return Samples(
        number=Bracket(low, high, high),
        smallest=Bracket(least_ns, certain_ns, least_ns or certain_ns // 2),
        largest=Bracket(least_ns, most_ns, least_ns or most_ns // 2),
        total=Bracket(least_ns * high, total_ns, least_ns * high or total_ns // 2) if low == high else None,
    )


def sent_by_client(connection: Connection, end_ns: int) -> list[Sent]:
    """Return what the client's socket sent: its SYN and its messages. Nothing when it was refused."""
    connect = connection.client.find("connect")
    if connect.error or connection.server is None:
        return []
    return [
        _handshake(connect.enter_ns, connect.exit_ns),
        *_messages(connection.client, connection.server, end_ns),
    ]


def sent_by_server(connection: Connection, end_ns: int) -> list[Sent]:
    """Return what the server's socket sent: its SYN-ACK and its messages."""
    if connection.server is None:
        return []
    begun_ns = connection.client.find("connect").enter_ns
    accepted_ns = connection.server.find("accept").exit_ns
    return [_handshake(begun_ns, accepted_ns), *_messages(connection.server, connection.client, end_ns)]


def _handshake(begun_ns: int, done_ns: int) -> Sent:
    took_ns = done_ns - begun_ns
    return Sent(took_ns, 1, certain=took_ns < _FIRST_RETRANSMISSION_NS)


def _messages(mine: Timeline, peer: Timeline, end_ns: int) -> list[Sent]:
    left_ns = next((call.enter_ns for call in mine.calls if call.name in ("shutdown", "close")), end_ns)
    messages: list[Sent] = []
    written = acknowledged_ns = 0
    for call in mine.calls:
        if call.name != "send" or call.error:
            continue
        written += call.result
        known_ns = _acknowledged_ns(mine, peer, written)
        # What was under way together can have been acknowledged together, with one sample for all of it.
        alone = call.enter_ns >= acknowledged_ns
        acknowledged_ns = end_ns if known_ns is None else known_ns
        certain = alone and known_ns is not None and known_ns <= left_ns
        messages.append(Sent(acknowledged_ns - call.enter_ns, -(-call.result // _LEAST_MSS), certain))
    return messages


def _acknowledged_ns(mine: Timeline, peer: Timeline, written: int) -> int | None:
    """When this side knew that the peer has the first `written` bytes, at the latest; None when nobody can tell.

    The peer has read them; whatever it sends after that acknowledges them, whether data or a FIN.
    """
    read = answered = 0
    for call in peer.calls:
        if call.name == "recv":
            read += call.result
        elif read >= written and call.name in ("send", "shutdown", "close"):
            return _read_beyond(mine.calls, answered if call.name == "send" else None)
        elif call.name == "send":
            answered += call.result
    return None


def _read_beyond(calls: list[Call], offset: int | None) -> int | None:
    """When recv() returned what lies beyond `offset` bytes, or with None the end; None when it never did."""
    read = 0
    for call in calls:
        if call.name == "recv" and not call.error:
            read += call.result
            if (offset is None and call.result == 0) or (offset is not None and read > offset):
                return call.exit_ns
    return None
