"""Pair requests with their replies, and measure their layers: pure functions over the points of the probe `layers`.

A client that writes after it has read begins a request. The data that it reads next is the reply. Together they are a
turn of the connection. Turns follow from the calls of the client, or from those of the server if the client was not
observed. What does not live here: the stages of one byte (lab/probes/layers/stages.py).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lab.arrays import UNKNOWN, Integers, Mask, Rows
from lab.probes.layers.stages import LAYERS, At, Stages, Stop, consistent, elsewhere_ns, layers_ns
from lab.traffic.demo.conversation import PORT

if TYPE_CHECKING:
    from lab.observation import Observed

LEGS = ("request", "reply")

REQUEST = np.dtype(
    [
        ("time_ns", "i8"),
        ("caddr", "u1", 16),
        ("cport", "u2"),
        ("saddr", "u1", 16),
        ("sport", "u2"),
        ("connection", "i8"),
        ("number", "i8"),
        ("bytes", "i8", 2),
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
    - `connection`, and the `number` of the turn in it. Data that precedes the first request is a turn without a
      request.
    - `call`: index of one of its system calls.
    - `last`: true for the last turn of the connection.
    """

    request_start: Integers
    request_end: Integers
    reply_start: Integers
    reply_end: Integers
    connection: Integers
    number: Integers
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
    """Requests with their replies, and the turns that they came from.

    `rows` are described at `requests`, and `turn` is the index of the turn of each row. `overlaps` is true for turns
    whose reply began before the request was read: requests were pipelined, or the data is not the reply. Those turns
    have no row.
    """

    rows: Rows
    turns: Turns
    overlaps: Mask
    turn: Integers


def requests(stages: Stages, port: int) -> Requests:
    """Return every request that has a reply, in order of time; `port` is the port of the servers.

    Fields of a row (times in nanoseconds):

    - `time_ns`: first observed stage
    - `caddr`, `cport`, `saddr`, `sport`: client and server
    - `connection`, and the `number` of the request in it, from 0
    - for request and reply: the `bytes`, the number of times that the last byte was `sent`, the `stops` of that byte,
      and the `layers_ns` between them
    - `elsewhere_ns`: time in layers that were not observed
    - `total_ns`: from the first write() of the client to the return of its last read(), as far as it was observed
    - `contradictory`: true if stages are unknown because they contradicted others (`consistent`)

    No time is negative. All layers and `elsewhere_ns` add up to `total_ns`. The layer `application` of a reply is the
    time of the server: from the return of its read() to the write() of the last byte of the reply.
    """
    turns = _turns(stages, port)
    complete = np.flatnonzero(turns.asked & turns.answered)
    rows = np.zeros(len(complete), REQUEST)
    covers, stops = stages.covers, rows["stops"]
    legs = ((turns.request_start, turns.request_end), (turns.reply_start, turns.reply_end))
    begun = []
    for leg, (starts, ends) in enumerate(legs):
        start, end = starts[complete], ends[complete]
        rows["bytes"][:, leg] = end - start
        stops[:, leg] = stages.of_bytes(end - 1)
        left, came = (covers[at].count(end - 1) for at in (At.TC_OUT, At.TC_IN))
        rows["sent"][:, leg] = np.where(left > 0, left, came)  # arrivals alone may include copies
        begun.append(stages.streams.values(covers[At.WRITE].first(start), "enter_ns"))
    stops[:, 0, Stop.BEGUN] = begun[0]
    stops[:, 1, Stop.BEGUN] = read_ns = stops[:, 0, Stop.READ]
    rows["number"], rows["connection"] = turns.number[complete], turns.connection[complete]
    overlap = (begun[1] != UNKNOWN) & (read_ns != UNKNOWN) & (begun[1] < read_ns)
    _fill_in(rows, stages, turns.call[complete], port)
    overlaps = np.zeros(len(turns.call), bool)
    overlaps[complete[overlap]] = True
    rows, turn = rows[~overlap], complete[~overlap]
    order = np.argsort(rows["time_ns"], kind="stable")
    return Requests(rows[order], turns, overlaps, turn[order])


def _turns(stages: Stages, port: int) -> Turns:
    streams = stages.streams
    calls, asks = _calls(stages, port)
    connection = streams.connection[calls]
    opens = np.append(True, connection[1:] != connection[:-1])[: len(calls)]
    begins = opens.copy()
    begins[1:] |= asks[1:] & ~asks[:-1]
    firsts = np.flatnonzero(begins)
    start, end = streams.start[calls], streams.end[calls]
    # Data that precedes the first request has number -1, so that requests are counted from 0.
    turn, first_of_connection = np.arange(len(firsts)), opens[firsts]
    unasked = ~asks[firsts] & first_of_connection
    number_0 = np.maximum.accumulate(np.where(first_of_connection, turn + unasked, 0))
    last = np.append(first_of_connection[1:], True)[: len(firsts)]
    return Turns(
        *_bounds(asks, start, end, firsts),
        *_bounds(~asks, start, end, firsts),
        connection[firsts],
        turn - number_0,
        calls[firsts],
        last,
    )


def _calls(stages: Stages, port: int) -> tuple[Integers, Mask]:
    """Return the calls of one end of each connection, by connection and time, and which of them have request bytes.

    That end is the client, or the server if the client was not observed.
    """
    streams, events = stages.streams, stages.events
    calls = streams.of(At.WRITE, At.READ)
    writes = events["at"][calls] == At.WRITE
    by_server = np.where(writes, events["sport"][calls], events["dport"][calls]) == port
    observed_clients = np.unique(streams.connection[calls[~by_server]])
    chosen = ~by_server | ~np.isin(streams.connection[calls], observed_clients)
    calls, writes, by_server = calls[chosen], writes[chosen], by_server[chosen]
    when_ns = np.where(writes, events["enter_ns"][calls], events["time_ns"][calls])
    order = np.lexsort((when_ns, streams.connection[calls]))
    return calls[order], (writes != by_server)[order]


def _bounds(chosen: Mask, start: Integers, end: Integers, firsts: Integers) -> tuple[Integers, Integers]:
    """Return the lowest start and the highest end of the chosen calls of each turn; end below start if none."""
    if not len(firsts):
        return firsts, firsts
    far = np.iinfo(np.int64).max
    lowest = np.minimum.reduceat(np.where(chosen, start, far), firsts)
    return lowest, np.maximum.reduceat(np.where(chosen, end, -far), firsts)


def _fill_in(rows: Rows, stages: Stages, calls: Integers, port: int) -> None:
    """Set, in place, the ends and the durations of the rows; `calls` has one call of each row."""
    events = stages.events[calls]
    to_server = events["dport"] == port
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


def requests_of(observed: "Observed") -> Rows:
    """Return all requests in an observed recording."""
    port = observed.connections[0].client.flow.rport if observed.connections else PORT
    return requests(Stages(observed.recording.events["layers"], observed.inodes), port).rows
