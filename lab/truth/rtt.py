"""Bounds of the RTT samples that a kernel can have taken, from the calls of both applications.

TCP takes at most one RTT sample for each acknowledgement that covers new data: the time from the sending of the oldest
newly covered segment to the arrival of the acknowledgement. It takes none if that segment was sent more than once (RFC
6298, 3, Karn's algorithm).

- The segment leaves after the application has entered send().
- The peer reads the whole message and then writes. When the application has read that, the acknowledgement has come.
"""

from dataclasses import dataclass
from typing import NamedTuple

from lab.timeline import CLOSING, Call, Connection, Timeline
from lab.verdict import Bracket

_LEAST_MSS = 536  # bytes of data that fit into a segment on any path: RFC 9293 (3.7.1)
_FIRST_RETRANSMISSION_NS = 1_000_000_000  # of a SYN: RFC 6298 (2.1)


class Sent(NamedTuple):
    """Data or a handshake segment that was sent and acknowledged.

    The kernel takes at most `samples` RTT samples of it, each at most `most_ns`. If it is `certain`, it takes at least
    one, in ESTABLISHED.
    """

    most_ns: int
    samples: int
    certain: bool


@dataclass(frozen=True)
class Samples:
    """Bounds of all samples of a socket; times in nanoseconds.

    `smallest` and `largest` bracket the extreme samples, `total` their sum. `total` is None if the number of samples is
    not certain.
    """

    number: Bracket
    smallest: Bracket
    largest: Bracket
    total: Bracket | None


def samples(sent: list[Sent], least_ns: int = 0) -> Samples:
    """Return the bounds of all samples; `least_ns` is the round trip on the wire alone, 0 if unknown."""
    low, high = sum(one.certain for one in sent), sum(one.samples for one in sent)
    most_ns = max(one.most_ns for one in sent)
    certain_ns = min((one.most_ns for one in sent if one.certain), default=most_ns)
    total_ns = sum(one.most_ns for one in sent)
    return Samples(
        number=Bracket.late(low, high),
        smallest=_time(least_ns, certain_ns),
        largest=_time(least_ns, most_ns),
        total=_time(least_ns * high, total_ns) if low == high else None,
    )


def _time(low_ns: int, high_ns: int) -> Bracket:
    """Return a bracket whose best estimate is the lower end, or the middle if nothing is known of the lower end."""
    return Bracket.early(low_ns, high_ns) if low_ns else Bracket.middle(low_ns, high_ns)


def sent_by_client(connection: Connection, end_ns: int) -> list[Sent]:
    """Return what the client's socket sent: its SYN and its messages. Empty if the connection was not opened."""
    connect = connection.client.opening
    if connect.error or connection.server is None:
        return []
    sent = [_handshake(connect.enter_ns, connect.exit_ns), *_messages(connection.client, connection.server, end_ns)]
    # The SYN-ACK acknowledges data of the SYN together with the SYN.
    return [sent[0], *_uncertain(sent[1:2]), *sent[2:]] if connection.client.fast_opened else sent


def sent_by_server(connection: Connection, end_ns: int, *, syn_ack_again: bool = False) -> list[Sent]:
    """Return what the server's socket sent: its SYN-ACK and its messages. Empty if there is no server.

    `syn_ack_again`: the SYN-ACK may have been sent more than once, as after a SYN that arrived twice (tcp_check_req()). Without
    TCP time stamps the kernel takes no sample of it then (tcp_synack_rtt_meas()).
    """
    if connection.server is None:
        return []
    begun_ns = connection.client.opening.enter_ns
    accepted_ns = connection.server.find("accept").exit_ns
    handshake = _handshake(begun_ns, accepted_ns)
    handshake = handshake._replace(certain=handshake.certain and not syn_ack_again)
    sent = [handshake, *_messages(connection.server, connection.client, end_ns)]
    if connection.client.fast_opened:
        # The final ACK can come after accept(), and acknowledge the first replies together with the SYN-ACK. Then they have
        # the one sample of the SYN-ACK, or the SYN-ACK has theirs (tcp_rcv_state_process()).
        later = [one._replace(most_ns=end_ns - begun_ns) for one in sent]
        return _uncertain(later)
    return sent


def _uncertain(sent: list[Sent]) -> list[Sent]:
    return [one._replace(certain=False) for one in sent]


def _handshake(begun_ns: int, done_ns: int) -> Sent:
    took_ns = done_ns - begun_ns
    return Sent(took_ns, 1, certain=took_ns < _FIRST_RETRANSMISSION_NS)


def _messages(mine: Timeline, peer: Timeline, end_ns: int) -> list[Sent]:
    left_ns = next((call.enter_ns for call in mine.calls if call.name in CLOSING), end_ns)
    messages: list[Sent] = []
    written = acknowledged_ns = 0
    for call in mine.calls:
        if call.name != "send" or call.error:
            continue
        written += call.result
        known_ns = _acknowledged_ns(mine, peer, written)
        # Messages that were in flight together can have been acknowledged together, with one sample for all of them.
        alone = call.enter_ns >= acknowledged_ns
        acknowledged_ns = end_ns if known_ns is None else known_ns
        certain = alone and known_ns is not None and known_ns <= left_ns
        messages.append(Sent(acknowledged_ns - call.enter_ns, -(-call.result // _LEAST_MSS), certain))
    return messages


def _acknowledged_ns(mine: Timeline, peer: Timeline, written: int) -> int | None:
    """Return a time by which this side knew that the peer has the first `written` bytes; None if unknown.

    The next segment that the peer sends after it has read them acknowledges them, whether data or a FIN.
    """
    read = answered = 0
    for call in peer.calls:
        if call.name == "recv":
            read += call.result
        elif read >= written and call.name in ("send", *CLOSING):
            return _read_beyond(mine.calls, answered if call.name == "send" else None)
        elif call.name == "send":
            answered += call.result
    return None


def _read_beyond(calls: list[Call], offset: int | None) -> int | None:
    """Return when recv() returned a byte beyond `offset`, or with None the end of the stream; None if it did not."""
    read = 0
    for call in calls:
        if call.name == "recv" and not call.error:
            read += call.result
            if (offset is None and call.result == 0) or (offset is not None and read > offset):
                return call.exit_ns
    return None
