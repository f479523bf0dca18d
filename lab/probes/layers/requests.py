"""Requests and their replies, and where the time between went: pure functions over the points of the probe `layers`.

An application that writes after it has read begins a request; what it then reads is the reply. So one connection is followed in
turns, by the calls of its client, or by those of its server where nobody watched the client.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lab.arrays import UNKNOWN, Integers, Mask, Rows
from lab.probes.layers.stages import LAYERS, At, Stages, Stop, elsewhere_ns, layers_ns
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
    ]
)


@dataclass(frozen=True)
class Exchanges:
    """The turns of connections, in order.

    What was asked and answered in each, as positions of bytes: nothing of either where the end is no more than the start. What comes
    before a connection's first request is a turn without one. `connection`, and the `number` of the turn in it; `call` is one of
    its system calls, and `last` tells that the connection has no further turn.
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
        """Tell which turns have a request."""
        return self.request_end > self.request_start

    @property
    def answered(self) -> Mask:
        """Tell which turns have a reply."""
        return self.reply_end > self.reply_start


@dataclass(frozen=True)
class Requests:
    """Requests with their replies, and what could not become one.

    `rows` are as told at `requests`. `overlaps` tells of which turns the reply began before the request had been read: pipelined, or
    not the one's reply at all. `exchange` is the number of each row's turn.
    """

    rows: Rows
    exchanges: Exchanges
    overlaps: Mask
    exchange: Integers


def requests(stages: Stages, port: int) -> Requests:
    """Find every request with its reply, in order of time; `port` is the servers'.

    Fields of a row: `time_ns` at which it began; the ends, client (`caddr`, `cport`) and server (`saddr`, `sport`); `connection`, and
    the `number` of the request in it, from 0; for request and reply the `bytes`, how often the last of them was `sent`, its `stops`
    and the `layers_ns` between them; `elsewhere_ns` in layers that nobody watched; `total_ns` from the client's write() to the
    return of its last read(), or what was seen of that.

    All layers and `elsewhere_ns` add up to `total_ns`. The reply's application is the server, from the return of its read() to the
    write() of the reply's last byte.
    """
    exchanges = _exchanges(stages, port)
    complete = np.flatnonzero(exchanges.asked & exchanges.answered)
    rows = np.zeros(len(complete), REQUEST)
    covers, stops = stages.covers, rows["stops"]
    legs = ((exchanges.request_start, exchanges.request_end), (exchanges.reply_start, exchanges.reply_end))
    begun = []
    for leg, (starts, ends) in enumerate(legs):
        start, end = starts[complete], ends[complete]
        rows["bytes"][:, leg] = end - start
        stops[:, leg] = stages.of_bytes(end - 1)
        left, came = (covers[at].count(end - 1) for at in (At.TC_OUT, At.TC_IN))
        rows["sent"][:, leg] = np.where(left > 0, left, came)  # a network may make copies
        begun.append(stages.streams.values(covers[At.WRITE].first(start), "enter_ns"))
    stops[:, 0, Stop.BEGUN] = begun[0]
    stops[:, 1, Stop.BEGUN] = read_ns = stops[:, 0, Stop.READ]
    rows["number"], rows["connection"] = exchanges.number[complete], exchanges.connection[complete]
    _tell(rows, stages, exchanges.call[complete], port)
    overlap = (begun[1] != UNKNOWN) & (read_ns != UNKNOWN) & (begun[1] < read_ns)
    overlaps = np.zeros(len(exchanges.call), bool)
    overlaps[complete[overlap]] = True
    rows, exchange = rows[~overlap], complete[~overlap]
    order = np.argsort(rows["time_ns"], kind="stable")
    return Requests(rows[order], exchanges, overlaps, exchange[order])


def _exchanges(stages: Stages, port: int) -> Exchanges:
    streams, events = stages.streams, stages.events
    calls = streams.of(At.WRITE, At.READ)
    writes = events["at"][calls] == At.WRITE
    by_server = np.where(writes, events["sport"][calls], events["dport"][calls]) == port
    # By the client where it was watched.
    clients = np.unique(streams.connection[calls[~by_server]])
    chosen = ~by_server | ~np.isin(streams.connection[calls], clients)
    calls, writes, by_server = calls[chosen], writes[chosen], by_server[chosen]
    asks = writes != by_server
    when_ns = np.where(writes, events["enter_ns"][calls], events["time_ns"][calls])
    order = np.lexsort((when_ns, streams.connection[calls]))
    calls, asks = calls[order], asks[order]
    connection = streams.connection[calls]
    fresh = np.append(True, connection[1:] != connection[:-1])[: len(calls)]
    begins = fresh.copy()
    begins[1:] |= asks[1:] & ~asks[:-1]
    firsts = np.flatnonzero(begins)
    far = np.iinfo(np.int64).max
    start, end = streams.start[calls], streams.end[calls]

    def bounds(mine: Mask) -> tuple[Integers, Integers]:
        if not len(firsts):
            return firsts, firsts
        lowest = np.minimum.reduceat(np.where(mine, start, far), firsts)
        return lowest, np.maximum.reduceat(np.where(mine, end, -far), firsts)

    exchange, first_of_connection = np.arange(len(firsts)), fresh[firsts]
    unasked = ~asks[firsts] & first_of_connection
    number_0 = np.maximum.accumulate(np.where(first_of_connection, exchange + unasked, 0))
    last = np.append(first_of_connection[1:], True)[: len(firsts)]
    return Exchanges(*bounds(asks), *bounds(~asks), connection[firsts], exchange - number_0, calls[firsts], last)


def _tell(rows: Rows, stages: Stages, calls: Integers, port: int) -> None:
    """Fill in, in place, who talks and how long what took; `calls` gives one call of each row."""
    events = stages.events[calls]
    to_server = events["dport"] == port
    for end, ours, theirs in (("c", "s", "d"), ("s", "d", "s")):
        rows[f"{end}addr"] = np.where(to_server[:, None], events[f"{ours}addr"], events[f"{theirs}addr"])
        rows[f"{end}port"] = np.where(to_server, events[f"{ours}port"], events[f"{theirs}port"])
    rows["layers_ns"] = layers_ns(rows["stops"])
    flat = rows["stops"].reshape(len(rows), len(LEGS) * len(Stop))
    rows["elsewhere_ns"] = elsewhere_ns(np.delete(flat, len(Stop) + Stop.BEGUN, axis=1))
    known = np.where(flat == UNKNOWN, np.iinfo(np.int64).max, flat)
    rows["time_ns"] = known.min(axis=1, initial=np.iinfo(np.int64).max)
    rows["total_ns"] = flat.max(axis=1, initial=UNKNOWN) - rows["time_ns"]


def requests_of(observed: "Observed") -> Rows:
    """Return the requests of the observed connections, with their layers."""
    port = observed.connections[0].client.flow.rport if observed.connections else PORT
    return requests(Stages(observed.recording.events["layers"], observed.inodes), port).rows
