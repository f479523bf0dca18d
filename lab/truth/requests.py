"""Brackets for the parts of a request's time, from the calls of both applications and from the taps at their hosts.

The kernel's work for a call lies between the call's two timestamps, and no byte is read before it was written. So each
stop that an application takes part in has an earliest and a latest time, and each span between two stops a shortest and
a longest duration. A byte was written before the first segment with it passed the tap at the sender's host, and is read after
one has passed the tap at the reader's.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Self

import numpy as np

from lab.arrays import Rows
from lab.network import segment_parser
from lab.network.conditions import FOREVER_NS
from lab.packet import SYN
from lab.timeline import Call, Connection
from lab.truth.taps import Seen
from lab.verdict import Bracket


@dataclass(frozen=True)
class Leg:
    """A request or a reply, and the calls of its sender and of its reader.

    - `size`: its bytes; `end`: the position behind its last byte, counted from the stream's first byte.
    - `first`, `last`: the calls that sent its first and its last byte.
    - `read`: the call of the other side that returned the last byte.
    - `wait`: the call in which the other side can have slept until that byte came: `read`, or a poll() or a peek before it.
    - `begun_by_ns`, `left_by_ns`: times by which the first and the last byte had left the sender's host.
    - `came_ns`: the earliest time at which the last byte can have come to the reader's host.
    """

    size: int
    end: int
    first: Call
    last: Call
    read: Call
    wait: Call
    begun_by_ns: int = FOREVER_NS
    left_by_ns: int = FOREVER_NS
    came_ns: int = 0

    # The best estimate of each of these times is the upper end: the probe's timestamp is close to the return of the
    # call.

    @property
    def written(self) -> Bracket:
        """When the sender wrote the last byte."""
        return Bracket.late(self.last.enter_ns, min(self.last.exit_ns, self.left_by_ns))

    @property
    def returned(self) -> Bracket:
        """When the reader got the last byte."""
        return Bracket.late(max(self.read.enter_ns, self.last.enter_ns, self.came_ns), self.read.exit_ns)

    @property
    def travel(self) -> Bracket:
        """Time from `written` to `returned`. No layer between the two took longer."""
        return between(self.written, self.returned)

    @property
    def waking(self) -> Bracket:
        """Time that the reader can have taken to wake up after the data was there."""
        return Bracket.late(0, self.read.exit_ns - max(self.wait.enter_ns, self.last.enter_ns, self.came_ns))

    @property
    def reading(self) -> Bracket:
        """Time that the kernel can have taken to copy the data to the reader."""
        return Bracket.late(0, self.read.exit_ns - self.returned.low)

    @property
    def begun(self) -> Bracket:
        """When the sender wrote the first byte."""
        return Bracket.late(self.first.enter_ns, min(self.first.exit_ns, self.begun_by_ns))

    def seen(self, sender: Seen | None, reader: Seen | None) -> Self:
        """Return the leg with what the taps at both hosts saw of it."""
        known = self
        if sender:
            begun, left = (with_byte(sender.left, byte) for byte in (self.end - self.size, self.end - 1))
            known = replace(
                known,
                begun_by_ns=int(begun["high_ns"].min(initial=FOREVER_NS)),
                left_by_ns=int(left["high_ns"].min(initial=FOREVER_NS)),
            )
        if reader and len(came := with_byte(reader.came, self.end - 1)):
            known = replace(known, came_ns=int(came["low_ns"].min()))
        return known


@dataclass(frozen=True)
class Exchange:
    """A request and its reply. `in_syn`: the SYN may have carried the request."""

    request: Leg
    reply: Leg
    in_syn: bool = False

    @property
    def application(self) -> Bracket:
        """Time from the return of the server's read() to its last write() of the reply."""
        return between(self.request.returned, self.reply.written)

    @property
    def thinking(self) -> Bracket:
        """Time between the client's first and its last write()."""
        request = self.request
        return between(request.begun, request.written) if request.first is not request.last else Bracket.exactly(0)

    @property
    def round_trip(self) -> Bracket:
        """Time from the client's first write() to the return of its read()."""
        return between(self.request.begun, self.reply.returned)

    def seen(self, client: Seen | None, server: Seen | None) -> Self:
        """Return the exchange with what the taps at both hosts saw of it."""
        return replace(self, request=self.request.seen(client, server), reply=self.reply.seen(server, client))

    def others(self, layer: Bracket) -> Bracket:
        """Return the time of all layers but one: at most the longest round trip minus the layer's shortest time."""
        return Bracket.early(0, self.round_trip.high - layer.low)


def with_byte(segments: Rows, byte: int, isn: int | None = None) -> Rows:
    """Return the segments of one direction that carry a byte of its stream, counted from 0.

    `isn` is the sequence number of the SYN. By default that of these segments; without one, none is known to carry it.
    """
    if isn is None:
        isn = next(iter(segments["seq"][segment_parser.has(segments, SYN)].tolist()), None)
    if isn is None:
        return segments[:0]
    behind = (isn + 1 + byte - segments["seq"].astype(np.int64) - segment_parser.has(segments, SYN)) % 2**32
    return segments[behind < segments["payload"]]


def between(start: Bracket, end: Bracket) -> Bracket:
    """Return the time from one point to a later one. The best estimate is the time between the two best estimates."""
    low = max(0, end.low - min(start.high, end.high))
    high = end.high - start.low
    return Bracket(low, high, min(max(low, end.best - start.best), high))


def exchanges(connection: Connection) -> list[Exchange]:
    """Return the exchanges in order: requests that the server read, with replies that the client read in part.

    They end before the first reply that the server began before it had read the request: from there on the data is not divided
    into requests. Raises `LookupError` when the two timelines contradict each other.
    """
    if connection.server is None:
        return []
    client, server = _Side(connection.client.calls), _Side(connection.server.calls)
    found = []
    asked = answered = 0
    for sends, receives in _groups(client.carrying):
        request = range(asked, asked + sum(call.result for call in sends))
        reply = range(answered, answered + sum(call.result for call in receives))
        asked, answered = request.stop, reply.stop
        if request and reply:
            read, returned = server.with_byte("recv", request[-1]), receives[-1]
            first, last = (server.with_byte("send", byte) for byte in (reply[0], reply[-1]))
            if first.enter_ns < read.enter_ns:  # the server makes one call after the other
                break
            asking = Leg(len(request), request.stop, sends[0], sends[-1], read, server.waiting(read, sends[-1]))
            answering = Leg(len(reply), reply.stop, first, last, returned, client.waiting(returned, last))
            in_syn = connection.client.fast_opened and sends[0] is client.carrying[0]
            found.append(Exchange(asking, answering, in_syn))
    return found


def _groups(calls: Sequence[Call]) -> list[tuple[list[Call], list[Call]]]:
    """Group a client's calls into sends and the receives that follow them, without receives before the first send."""
    groups: list[tuple[list[Call], list[Call]]] = []
    before = "recv"
    for call in calls:
        if call.name == "send" and before == "recv":
            groups.append(([], []))
        if groups:
            groups[-1][call.name == "recv"].append(call)
        before = call.name
    return groups


class _Side:
    """One application's calls; `carrying` are those that sent or received data."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self.carrying = [call for call in calls if call.name in ("send", "recv") and call.result > 0]
        self._waits = [call for call in calls if call.name in ("poll", "peek")]
        self._named = {name: [call for call in self.carrying if call.name == name] for name in ("send", "recv")}
        self._bounds = {name: list(accumulate(call.result for call in them)) for name, them in self._named.items()}

    def with_byte(self, name: str, byte: int) -> Call:
        """Return the call that carried a byte of its direction, counted from 0.

        Raises `LookupError` if there is none.
        """
        found = bisect_right(self._bounds[name], byte)
        if found == len(self._named[name]):
            raise LookupError(f"no {name}() carried byte {byte}, but the other side reports that byte")
        return self._named[name][found]

    def waiting(self, read: Call, sent: Call) -> Call:
        """Return the call in which the reader can have slept until a byte came, which the other side's call `sent` sent.

        It is the first poll() or peek before `read` that had not returned when `sent` began, else `read`. An application that
        had been woken can have made other calls before it read the byte.
        """
        waits = (call for call in self._waits if call.enter_ns < read.enter_ns and call.exit_ns > sent.enter_ns)
        return next(waits, read)
