"""Where the time of a request must have gone, given what both applications did: brackets from the stamps of their calls.

What the kernel does for a call lies between the call's stamps, and nothing is read before it was written. So each stop at which an
application takes part has an earliest and a latest time, and so has what lies between two of them.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from lab.timeline import Call, Connection
from lab.verdict import Bracket


@dataclass(frozen=True)
class Leg:
    """A request or a reply: what was sent, and the calls of the two applications that matter.

    `end` is the position behind its last byte, counted from the stream's first. `first` is the call that sent its first byte, `last`
    the one that sent its last; `read` the other side's that returned that, and `wait` the one in which that side can have slept until
    it was there: the same, or a poll() right before it.
    """

    size: int
    end: int
    first: Call
    last: Call
    read: Call
    wait: Call

    @property
    def written(self) -> Bracket:
        """When the last byte was handed over."""
        return _bracket(self.last.enter_ns, self.last.exit_ns)

    @property
    def returned(self) -> Bracket:
        """When it was returned to the other side."""
        return _bracket(max(self.read.enter_ns, self.last.enter_ns), self.read.exit_ns)

    @property
    def travel(self) -> Bracket:
        """How long it took from the one to the other: no layer between them took longer."""
        return between(self.written, self.returned)

    @property
    def waking(self) -> Bracket:
        """How long the reader can have taken to wake up, from when it could know of the data."""
        return _bracket(0, self.read.exit_ns - max(self.wait.enter_ns, self.last.enter_ns))

    @property
    def reading(self) -> Bracket:
        """How long it can have taken to copy."""
        return _bracket(0, self.read.exit_ns - self.returned.low)

    @property
    def begun(self) -> Bracket:
        """When the first byte was handed over."""
        return _bracket(self.first.enter_ns, self.first.exit_ns)


@dataclass(frozen=True)
class Exchange:
    """A request and its reply."""

    request: Leg
    reply: Leg

    @property
    def application(self) -> Bracket:
        """How long the server took, from the return of its read() to the last write() of the reply."""
        return between(self.request.returned, self.reply.written)

    @property
    def thinking(self) -> Bracket:
        """How long the client took between its first and its last write()."""
        request = self.request
        return between(request.begun, request.written) if request.first is not request.last else Bracket(0, 0, 0)

    @property
    def round_trip(self) -> Bracket:
        """How long everything took: what the client has measured itself, at most."""
        return between(self.request.begun, self.reply.returned)

    def others(self, layer: Bracket) -> Bracket:
        """How long everything beside a layer can have taken: what remains of the longest round trip after the shortest of that."""
        return Bracket(0, self.round_trip.high - layer.low, 0)


def between(start: Bracket, end: Bracket) -> Bracket:
    """Return how long it can have been from one to the other, which comes later; it is quick where it can be."""
    low = max(0, end.low - min(start.high, end.high))
    return Bracket(low, end.high - start.low, min(max(low, end.best - start.best), end.high - start.low))


def exchanges(connection: Connection) -> list[Exchange]:
    """Return the turns of a connection, in order: requests that were read, with replies of which the client has read something."""
    if connection.server is None:
        return []
    client, server = _Side(connection.client.calls), _Side(connection.server.calls)
    groups: list[tuple[list[Call], list[Call]]] = []
    before = "recv"
    for call in client.carrying:
        if call.name == "send" and before == "recv":
            groups.append(([], []))
        if groups:
            groups[-1][call.name == "recv"].append(call)
        before = call.name
    found = []
    asked = answered = 0
    for sends, receives in groups:
        request = range(asked, asked + sum(call.result for call in sends))
        reply = range(answered, answered + sum(call.result for call in receives))
        asked, answered = request.stop, reply.stop
        if request and reply:
            read, returned = server.with_byte("recv", request[-1]), receives[-1]
            first, last = (server.with_byte("send", byte) for byte in (reply[0], reply[-1]))
            asking = Leg(len(request), request.stop, sends[0], sends[-1], read, server.waiting(read))
            answering = Leg(len(reply), reply.stop, first, last, returned, client.waiting(returned))
            found.append(Exchange(asking, answering))
    return found


class _Side:
    """One application's calls."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self.carrying = [call for call in calls if call.name in ("send", "recv") and call.result > 0]
        self._before = {call: before for before, call in pairwise(calls)}
        self._named = {name: [call for call in self.carrying if call.name == name] for name in ("send", "recv")}
        self._bounds = {name: list(accumulate(call.result for call in them)) for name, them in self._named.items()}

    def with_byte(self, name: str, byte: int) -> Call:
        """Return the call that carried a byte of its direction, counted from 0. Raises `LookupError` when none did."""
        found = bisect_right(self._bounds[name], byte)
        if found == len(self._named[name]):
            raise LookupError(f"no {name}() carried byte {byte}, and the other side has it")
        return self._named[name][found]

    def waiting(self, read: Call) -> Call:
        """Return the call in which a reader can have waited for what it then read."""
        before = self._before.get(read, read)
        return before if before.name == "poll" else read


def _bracket(low_ns: int, high_ns: int) -> Bracket:
    """Return a bracket whose latest time is the best estimate: a stamp that follows its call at once."""
    return Bracket(low_ns, high_ns, high_ns)
