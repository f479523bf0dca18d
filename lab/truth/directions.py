"""When the segments of a connection must have arrived, given what both applications did.

A segment leaves its sender inside a system call at the earliest, and has arrived at the latest when the call returns in which
the other application learns of it: each arrival lies between two stamps, however slow the machine was.
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
    """What one side sends and the other receives.

    `flow` has the sender first. Points in time are on `CLOCK_MONOTONIC`, in nanoseconds: of the `opening` segment (the SYN of a
    client, the SYN-ACK of a server), of the `first_data` and of the `last_data`, of the segment that `ends` this direction (FIN,
    RST or none at all; several when the outcome of a race is not known). None stands for what does not come, and for what
    nobody could have noticed. `payload` is the number of bytes that come, `sent` how many the sender has handed to its kernel.
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
    """Tell of a connection what comes to the server, and what comes to the client.

    `end_ns` is a time at which the connection is known to have been over. Raises `LookupError` for a connection of which nobody
    can tell: one that was neither accepted nor refused.
    """
    client, server = connection.client, connection.server
    connect = client.find("connect")
    opening = _between(connect.enter_ns, connect.exit_ns)
    if server is not None:
        return _journey(client, server, opening, end_ns), _journey(server, client, opening, end_ns)
    if connect.error != "ECONNREFUSED":
        raise LookupError(f"nobody accepted {client.flow}, and nobody refused it")
    nothing = Bracket(0, 0, 0)
    return (
        OneDirection(client.flow, opening, nothing, 0, None, None, [""], opening),
        OneDirection(client.flow.reversed(), None, nothing, 0, None, None, ["RST"], opening),
    )


def connections_in_time(connections: Iterable[Connection]) -> Iterator[tuple[Connection, int, int]]:
    """Give each connection with the time from which and until which its flow is its own: a flow can be used again."""
    by_flow: dict[Flow, list[Connection]] = defaultdict(list)
    for connection in connections:
        by_flow[connection.client.flow].append(connection)
    for same in by_flow.values():
        same.sort(key=lambda connection: connection.client.opened_ns)
        begins = [0, *(connection.client.find("connect").enter_ns for connection in same[1:]), _FOR_EVER]
        for connection, (since_ns, until_ns) in zip(same, pairwise(begins), strict=True):
            yield connection, since_ns, until_ns


def _journey(sender: Timeline, receiver: Timeline, opening: Bracket, end_ns: int) -> OneDirection:
    sends, receives = _carrying(sender, "send"), _carrying(receiver, "recv")
    sent, received = sum(call.result for call in sends), sum(call.result for call in receives)
    first_data = last_data = None
    if received:
        first_data = _between(sends[0].enter_ns, receives[0].exit_ns)
    if received == sent > 0:  # else the last byte may never have left, or never been read
        last_data = _between(sends[-1].enter_ns, receives[-1].exit_ns)
    closing = next(call for call in sender.calls if call.name in ("shutdown", "close"))
    noticed_ns = next((call.exit_ns for call in receiver.calls if _tells_of_the_end(call)), end_ns)
    return OneDirection(
        flow=sender.flow,
        opening=opening,
        payload=Bracket(received, sent, sent),
        sent=sent,
        first_data=first_data,
        last_data=last_data,
        ends=_ends(sender, receiver),
        end=_between(closing.enter_ns, noticed_ns),
    )


def _ends(sender: Timeline, receiver: Timeline) -> list[str]:
    """Return the ways in which a direction can end; a side whose connection was reset has nothing more to say."""
    if _resets(sender):
        return ["RST", ""] if _resets(receiver) else ["RST"]
    return [""] if _resets(receiver) else ["FIN"]


def _resets(timeline: Timeline) -> bool:
    return any(call.name == "linger0" for call in timeline.calls)


def _carrying(timeline: Timeline, name: str) -> list[Call]:
    return [call for call in timeline.calls if call.name == name and call.result > 0]


def _tells_of_the_end(call: Call) -> bool:
    return (call.name == "recv" and call.result == 0) or call.error in ("ECONNRESET", "EPIPE")


def _between(earliest_ns: int, latest_ns: int) -> Bracket:
    """Return the bracket; a segment is sent as soon as it can be, so the earliest time is the best estimate."""
    return Bracket(earliest_ns, latest_ns, earliest_ns)
