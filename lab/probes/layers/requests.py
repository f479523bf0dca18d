"""Pair requests with their replies, and measure their layers: pure functions over the points of the probe `layers`.

A client that writes after it has read begins a turn of the connection. The data that it reads next ends the turn. Turns
follow from the calls of the client, or from those of the server if the client was not observed. A turn is a request
with its reply only if the server also took it as that: it had read the whole request before it sent a byte of the reply.
Otherwise the turn is a stretch of the connection, and so are all later turns: the connection is pipelined or
multiplexed. A pause ends a reply. What the server sends after it, without another request, is a push. What does not
live here: the stages of one byte (lab/probes/layers/stages.py).
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from lab.arrays import UNKNOWN, Events, Integers, Mask, Rows
from lab.probes.layers.byte_streams import NONE
from lab.probes.layers.stages import (
    LAYERS,
    NEW_DATA,
    At,
    Ports,
    Stages,
    Stop,
    are_servers,
    consistent,
    elsewhere_ns,
    layers_ns,
)
from lab.probes.layers.translations import Translations
from lab.tcp import DEMO_PORT
from lab.units import SECOND

if TYPE_CHECKING:
    from lab.observation import Observed

LEGS = ("request", "reply")

GAP_NS = SECOND
"""The pause that ends a reply, unless the user gives another one."""


class Kind(IntEnum):
    """What a turn of a connection is.

    - `REQUEST`: a request, and a reply whose parts came soon after each other
    - `STREAM`: the same, but a pause in the reply was longer than the time up to its first byte
    - `STRETCH`: data in both directions that cannot be divided into requests
    - `PUSH`: data of the server without a request
    """

    REQUEST = 0
    STREAM = 1
    STRETCH = 2
    PUSH = 3


REQUEST = np.dtype(
    [
        ("time_ns", "i8"),
        ("caddr", "u1", 16),
        ("cport", "u2"),
        ("saddr", "u1", 16),
        ("sport", "u2"),
        ("connection", "i8"),
        ("number", "i8"),
        ("kind", "u1"),
        ("bytes", "i8", 2),
        ("spans_ns", "i8", (2, 2)),
        ("sent", "i8", 2),
        ("stops", "i8", (2, len(Stop))),
        ("layers_ns", "i8", (2, len(LAYERS))),
        ("elsewhere_ns", "i8"),
        ("total_ns", "i8"),
        ("contradictory", "?"),
    ]
)


@dataclass(frozen=True)
class Turns:
    """The turns of all connections, by connection and time. All arrays have one value for each turn.

    - `request_start` to `reply_end`: positions of bytes. An end that is not above its start means no request, or no
      reply.
    - `connection`, and the `number` of the request in it. Data of the server that precedes the first request, or follows
      a pause, is a turn without a request, and has the number of the request before it.
    - `spans_ns`: when the first and the last byte of request and reply was written or read at this end.
    - `pause_ns`: the longest pause in the reply.
    - `call`: index of its last system call.
    - `last`: true for the last turn of the connection.
    """

    request_start: Integers
    request_end: Integers
    reply_start: Integers
    reply_end: Integers
    connection: Integers
    number: Integers
    spans_ns: Integers
    pause_ns: Integers
    call: Integers
    last: Mask

    @property
    def asked(self) -> Mask:
        """Return which turns have a request."""
        return self.request_end > self.request_start

    @property
    def answered(self) -> Mask:
        """Return which turns have a reply."""
        return self.reply_end > self.reply_start


@dataclass(frozen=True)
class Requests:
    """What was seen of all connections, and the turns that it came from.

    `every` has a row for each turn with a reply, described at `requests`. `turn` is the index of the turn of each row.
    """

    every: Rows
    turns: Turns
    turn: Integers

    @property
    def rows(self) -> Rows:
        """Return the requests that have a reply, streamed or not."""
        return self.every[are_requests(self.every)]


def are_requests(rows: Rows) -> Mask:
    """Return which rows are requests with their replies, and not stretches or pushes."""
    return rows["kind"] <= Kind.STREAM


def requests(stages: Stages, ports: Ports, gap_ns: int = GAP_NS) -> Requests:
    """Return every request that has a reply, every stretch and every push, in order of time.

    `ports` are those of the servers, and `gap_ns` the pause that ends a reply: the server had not sent the next byte
    that long after the client had read all others.

    Fields of a row (times in nanoseconds):

    - `time_ns`: first observed stage
    - `caddr`, `cport`, `saddr`, `sport`: client and server
    - `connection`, and the `number` of the request in it, from 0
    - `kind`: a `Kind`
    - for request and reply: the `bytes`, the number of times that the last byte was `sent`, the `stops` of that byte,
      and the `layers_ns` between them
    - `spans_ns`: when the first and the last byte of each was written (start of the call) or read (end of the call), by
      the client, or by the server if the client was not observed; `UNKNOWN` if there is none
    - `elsewhere_ns`: time in layers that were not observed
    - `total_ns`: from the first write() of the client to the return of its last read(), as far as it was observed
    - `contradictory`: true if stages are unknown because they contradicted others (`consistent`)

    No time is negative. All layers and `elsewhere_ns` add up to `total_ns`. The layer `application` of a reply is the
    time of the server: from the return of its read() to the write() of the last byte of the reply. All times of a
    stretch except its spans are `UNKNOWN`.
    """
    turns = _turns(stages, ports, gap_ns)
    shown = np.flatnonzero(turns.answered)
    rows = np.zeros(len(shown), REQUEST)
    covers, stops = stages.covers, rows["stops"]
    asked = turns.asked[shown]
    legs = ((turns.request_start, turns.request_end), (turns.reply_start, turns.reply_end))
    begun = []
    for leg, (starts, ends) in enumerate(legs):
        exists = asked | (leg == 1)
        first, last = (np.where(exists, byte, NONE) for byte in (starts[shown], ends[shown] - 1))
        rows["bytes"][:, leg] = np.where(exists, last - first + 1, 0)
        stops[:, leg] = stages.of_bytes(last)
        left, came = (covers[at].count(last) for at in (At.TC_OUT, At.TC_IN))
        rows["sent"][:, leg] = np.where(left > 0, left, came)  # arrivals alone may include copies
        begun.append(stages.streams.values(covers[At.WRITE].first(first), "enter_ns"))
    stops[:, 0, Stop.BEGUN] = begun[0]
    stops[:, 1, Stop.BEGUN] = stops[:, 0, Stop.READ]
    for name in ("number", "connection", "spans_ns"):
        rows[name] = getattr(turns, name)[shown]
    rows["kind"] = _kinds(stages, turns, shown, stops[:, 0], begun[1])
    stops[rows["kind"] == Kind.STRETCH] = UNKNOWN
    _fill_in(rows, stages, turns.call[shown], ports)
    order = np.argsort(rows["time_ns"], kind="stable")
    return Requests(rows.take(order), turns, shown[order])


def _kinds(stages: Stages, turns: Turns, shown: Integers, asked_stops: Integers, begun_ns: Integers) -> Integers:
    """Return the kind of each shown turn, given the stages of its request and when the server began with its reply."""
    began = np.stack([begun_ns, stages.appeared_ns(turns.reply_start[shown])])
    began_ns = np.where(began == UNKNOWN, np.iinfo(np.int64).max, began).min(axis=0)
    over_ns = np.full(len(shown), UNKNOWN)  # the latest certain time of the request's last byte
    for stop in (Stop.WRITTEN, Stop.FIRST_OUT, Stop.TCP_IN, Stop.READ):
        over_ns = np.where(asked_stops[:, stop] == UNKNOWN, over_ns, asked_stops[:, stop])
    connection = turns.connection[shown]
    first = np.searchsorted(connection, connection)  # first shown turn of the connection
    overlap = began_ns < over_ns
    before = np.cumsum(overlap) - overlap
    known = stages.streams.connection[stages.events["multiplexed"] > 0]
    asked, (request_ns, reply_ns) = turns.asked[shown], turns.spans_ns[shown, :, 0].T
    return np.select(
        [
            np.isin(connection, known) | overlap | (before > before[first]),
            ~asked,
            turns.pause_ns[shown] > reply_ns - request_ns,
        ],
        [Kind.STRETCH, Kind.PUSH, Kind.STREAM],
        Kind.REQUEST,
    )


def _turns(stages: Stages, ports: Ports, gap_ns: int) -> Turns:
    streams = stages.streams
    calls, asks = _calls(stages, ports)
    connection = streams.connection[calls]
    opens = np.append(True, connection[1:] != connection[:-1])[: len(calls)]
    pauses_ns = _pauses_ns(stages, calls, opens, asks)
    begins = opens | (pauses_ns > gap_ns)
    begins[1:] |= asks[1:] & ~asks[:-1]
    firsts = np.flatnonzero(begins)
    connection, start, end = (values[calls] for values in (streams.connection, streams.start, streams.end))
    first_of_connection = opens[firsts]
    asked: Integers = np.cumsum(asks[firsts])  # requests so far, over all connections
    asked_before = np.maximum.accumulate(np.where(first_of_connection, asked - asks[firsts], 0))
    when_ns = _when_ns(stages, calls)
    bounds = [_bounds(chosen, when_ns, when_ns, firsts) for chosen in (asks, ~asks)]
    spans_ns = [np.where(high >= low, edge, UNKNOWN) for low, high in bounds for edge in (low, high)]
    inside = np.where(begins, 0, pauses_ns)
    return Turns(
        *_bounds(asks, start, end, firsts),
        *_bounds(~asks, start, end, firsts),
        connection[firsts],
        asked - asked_before - 1,
        np.stack(spans_ns, axis=-1).reshape(-1, 2, 2),
        np.maximum.reduceat(inside, firsts) if len(firsts) else firsts,
        calls[np.append(firsts[1:], len(calls))[: len(firsts)] - 1],
        np.append(first_of_connection[1:], True)[: len(firsts)],
    )


def _pauses_ns(stages: Stages, calls: Integers, opens: Mask, asks: Mask) -> Integers:
    """Return the pause before each call of a reply: from the return of the call before it to the next byte's first point.

    0 for other calls, and if the byte had appeared by then.
    """
    appeared_ns = stages.appeared_ns(stages.streams.start[calls])
    returned_ns = stages.events["time_ns"][calls].astype(np.int64)
    follows = ~opens & ~asks
    follows[1:] &= ~asks[:-1]
    before_ns = np.append(0, returned_ns)[: len(calls)]
    return np.where(follows, np.maximum(appeared_ns - before_ns, 0), 0)


def _calls(stages: Stages, ports: Ports) -> tuple[Integers, Mask]:
    """Return the calls of one end of each connection, by connection and time, and which of them have request bytes.

    That end is the client, or the server if the client was not observed. Segments with new data stand for system calls
    that are not observed (io_uring, splice()): those sent for bytes without a write(), and those received if there is
    no read() at all.
    """
    streams, events = stages.streams, stages.events
    calls, fresh = streams.of(At.WRITE, At.READ), events["of_socket"] == NEW_DATA
    sent, came = (index[fresh[index]] for index in (streams.of(At.TC_OUT), streams.of(At.TCP_IN)))
    sent = sent[stages.covers[At.WRITE].first(streams.end[sent] - 1) == NONE]
    came = came[~np.isin(streams.connection[came], streams.connection[streams.of(At.READ)])]
    calls = np.concatenate([calls, sent, came])
    writes = events["at"][calls] <= At.TC_OUT
    both = events["sport"][calls], events["dport"][calls]
    by_server = are_servers(np.where(writes, *both), np.where(writes, *reversed(both)), ports)
    observed_clients = np.unique(streams.connection[calls[~by_server]])
    chosen = ~by_server | ~np.isin(streams.connection[calls], observed_clients)
    calls, writes, by_server = calls[chosen], writes[chosen], by_server[chosen]
    order = np.lexsort((_when_ns(stages, calls), streams.connection[calls]))
    return calls[order], (writes != by_server)[order]


def _when_ns(stages: Stages, calls: Integers) -> Integers:
    """Return when each call wrote (its start) or read (its end)."""
    events = stages.events[calls]
    return np.where(events["at"] == At.WRITE, events["enter_ns"], events["time_ns"]).astype(np.int64)


def unseen_bytes(events: Events) -> Integers:
    """Return how many more bytes were sent, and received, than observed system calls have written, and read."""
    segments = (events["at"] == At.TC_OUT) | (events["at"] == At.TCP_IN)
    lengths = np.where(segments & (events["of_socket"] != NEW_DATA), 0, events["length"])
    sums = np.bincount(events["at"], lengths, len(At)).astype(np.int64)
    return sums[[At.TC_OUT, At.TCP_IN]] - sums[[At.WRITE, At.READ]]


def _bounds(chosen: Mask, start: Integers, end: Integers, firsts: Integers) -> tuple[Integers, Integers]:
    """Return the lowest start and the highest end of the chosen calls of each turn; end below start if none."""
    if not len(firsts):
        return firsts, firsts
    far = np.iinfo(np.int64).max
    lowest = np.minimum.reduceat(np.where(chosen, start, far), firsts)
    return lowest, np.maximum.reduceat(np.where(chosen, end, -far), firsts)


def _fill_in(rows: Rows, stages: Stages, calls: Integers, ports: Ports) -> None:
    """Set, in place, the ends and the durations of the rows; `calls` has one call of each row."""
    events = stages.events[calls]
    to_server = are_servers(events["dport"], events["sport"], ports)
    for end, ours, theirs in (("c", "s", "d"), ("s", "d", "s")):
        rows[f"{end}addr"] = np.where(to_server[:, None], events[f"{ours}addr"], events[f"{theirs}addr"])
        rows[f"{end}port"] = np.where(to_server, events[f"{ours}port"], events[f"{theirs}port"])
    flat, rows["contradictory"] = consistent(rows["stops"].reshape(len(rows), len(LEGS) * len(Stop)))
    rows["stops"] = flat.reshape(rows["stops"].shape)
    rows["layers_ns"] = layers_ns(rows["stops"])
    rows["elsewhere_ns"] = elsewhere_ns(np.delete(flat, len(Stop) + Stop.BEGUN, axis=1))
    known = np.where(flat == UNKNOWN, np.iinfo(np.int64).max, flat)
    rows["time_ns"] = known.min(axis=1, initial=np.iinfo(np.int64).max)
    rows["total_ns"] = flat.max(axis=1, initial=UNKNOWN) - rows["time_ns"]
    rows["kind"][(flat == UNKNOWN).all(axis=1)] = Kind.STRETCH
    stretch = rows["kind"] == Kind.STRETCH
    rows["elsewhere_ns"][stretch] = rows["total_ns"][stretch] = UNKNOWN
    spans_ns = rows["spans_ns"][stretch].reshape(-1, 4)
    rows["time_ns"][stretch] = np.where(spans_ns == UNKNOWN, np.iinfo(np.int64).max, spans_ns).min(axis=1)


def requests_of(observed: "Observed") -> Rows:
    """Return all requests in an observed recording, those behind an address translation as the live tool does."""
    port = observed.connections[0].client.flow.rport if observed.connections else DEMO_PORT
    events = Translations(port).undo(observed.recording.events["layers"])
    return requests(Stages(events, observed.inodes), port).rows
