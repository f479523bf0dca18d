"""Brackets for the segments of a connection, one direction at a time, from the calls of both applications.

A segment leaves no earlier than its sender enters the system call, and has arrived no later than the receiver's call
returns that reports it. So each arrival lies between two timestamps, however slow the machine was.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from lab.tcp import Flow
from lab.timeline import Call, Connection, Timeline
from lab.verdict import Bracket

_FOR_EVER = 1 << 63


@dataclass(frozen=True)
class OneDirection:
    """What one side sends and the other receives; times in nanoseconds on `CLOCK_MONOTONIC`.

    - `flow`: the sender first.
    - `opening`: when the SYN (of a client) or the SYN-ACK (of a server) arrived.
    - `payload`: bytes that arrived; `sent`: bytes that the sender gave to its kernel.
    - `first_data`, `last_data`: when the first and the last data arrived.
    - `ends`: the segments that can have ended this direction: `FIN`, `RST` or an empty text for none. Several if the
      outcome of a race is unknown.
    - `end`: when that segment arrived.

    None stands for a segment that did not arrive or that no call reports.
    """

    flow: Flow
    opening: Bracket | None
    payload: Bracket
    sent: int
    first_data: Bracket | None
    last_data: Bracket | None
    ends: list[str]
    end: Bracket


def both_directions(connection: Connection, end_ns: int) -> tuple[OneDirection, OneDirection]:
    """Return the direction to the server and the direction to the client.

    `end_ns` is a time at which the connection was over. Raises `LookupError` for a connection that was neither accepted
    nor refused: its end is not known.
    """
    client, server = connection.client, connection.server
    connect = client.opening
    # A segment is sent as soon as possible, so the earliest time is the best estimate, here and below.
    opening = Bracket.early(connect.enter_ns, connect.exit_ns)
    if server is not None:
        return _journey(client, server, opening, end_ns), _journey(server, client, opening, end_ns)
    if connect.error != "ECONNREFUSED":
        raise LookupError(f"{client.flow} was not accepted and not refused")
    nothing = Bracket.exactly(0)
    return (
        OneDirection(client.flow, opening, nothing, 0, None, None, [""], opening),
        OneDirection(client.flow.reversed(), None, nothing, 0, None, None, ["RST"], opening),
    )


def connections_in_time(connections: Iterable[Connection]) -> Iterator[tuple[Connection, int, int]]:
    """Yield each connection with the period in which it used its flow: until the flow's next connect()."""
    by_flow: dict[Flow, list[Connection]] = defaultdict(list)
    for connection in connections:
        by_flow[connection.client.flow].append(connection)
    for same in by_flow.values():
        same.sort(key=lambda connection: connection.client.opened_ns)
        begins = [0, *(connection.client.opening.enter_ns for connection in same[1:]), _FOR_EVER]
        for connection, (since_ns, until_ns) in zip(same, pairwise(begins), strict=True):
            yield connection, since_ns, until_ns


def _journey(sender: Timeline, receiver: Timeline, opening: Bracket, end_ns: int) -> OneDirection:
    sends, receives = _carrying(sender, "send"), _carrying(receiver, "recv")
    sent, received = sum(call.result for call in sends), sum(call.result for call in receives)
    first_data = last_data = None
    if received:
        first_data = Bracket.early(sends[0].enter_ns, receives[0].exit_ns)
    if received == sent > 0:  # otherwise the last byte may not have left, or was not read
        last_data = Bracket.early(sends[-1].enter_ns, receives[-1].exit_ns)
    noticed_ns = next((call.exit_ns for call in receiver.calls if _reports_the_end(call)), end_ns)
    return OneDirection(
        flow=sender.flow,
        opening=opening,
        payload=Bracket.late(received, sent),
        sent=sent,
        first_data=first_data,
        last_data=last_data,
        ends=_ends(sender, receiver),
        end=Bracket.early(sender.closing.enter_ns, noticed_ns),
    )


def _ends(sender: Timeline, receiver: Timeline) -> list[str]:
    """Return the ways in which a direction can end. A side whose connection was reset sends no end of its own."""
    if sender.resets:
        return ["RST", ""] if receiver.resets else ["RST"]
    return [""] if receiver.resets else ["FIN"]


def _carrying(timeline: Timeline, name: str) -> list[Call]:
    return [call for call in timeline.calls if call.name == name and call.result > 0]


def _reports_the_end(call: Call) -> bool:
    """Return whether a call reported that the connection had ended: also a recv() that failed for any reason."""
    return (call.name == "recv" and call.result == 0 and not call.error) or call.error in ("ECONNRESET", "EPIPE")
