"""Requests and their replies, and where the time between went: pure functions over the points of the probe `layers`.

An application that writes after it has read begins a request; what it then reads is the reply. So one connection is followed in
turns, by the calls of its client, or by those of its server where nobody watched the client.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lab.journeys import LAYERS, At, Rows, Stop, Ways, elsewhere_ns, layers_ns
from lab.measure import UNKNOWN
from lab.streams import Integers

LEGS = ("request", "reply")

EXCHANGE = np.dtype(
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
    """`rows` as told at `exchanges`, and how often something could not become one.

    `unasked`: somebody was sent something without having asked; `unanswered`: a request has no reply; `overlapping`: a reply began
    before its request had been read.
    """

    rows: Rows
    unasked: int = 0
    unanswered: int = 0
    overlapping: int = 0


def exchanges(ways: Ways, port: int) -> Exchanges:
    """Find every request with its reply, in order of time; `port` is the servers'.

    Fields of a row: `time_ns` at which it began; the ends, client (`caddr`, `cport`) and server (`saddr`, `sport`); `connection`, and
    the `number` of the request in it, from 0; for request and reply the `bytes`, how often the last of them was `sent`, its `stops`
    and the `layers_ns` between them; `elsewhere_ns` in layers that nobody watched; `total_ns` from the client's write() to the
    return of its last read(), or what was seen of that.

    All layers and `elsewhere_ns` add up to `total_ns`. The reply's application is the server, from the return of its read() to the
    write() of the reply's last byte.
    """
    turns = _turns(ways, port)
    complete = (turns.request_end > turns.request_start) & (turns.reply_end > turns.reply_start)
    unasked = int((turns.request_end <= turns.request_start).sum())
    unanswered = int((turns.reply_end <= turns.reply_start).sum())
    request, reply = (
        (turns.request_start[complete], turns.request_end[complete]),
        (turns.reply_start[complete], turns.reply_end[complete]),
    )
    rows = np.zeros(int(complete.sum()), EXCHANGE)
    covers, streams = ways.covers, ways.streams
    for leg, (start, end) in enumerate((request, reply)):
        last = end - 1
        rows["bytes"][:, leg] = end - start
        rows["stops"][:, leg] = ways.of_bytes(last)
        rows["sent"][:, leg] = np.maximum(covers[At.TC_OUT].count(last), covers[At.TC_IN].count(last))
    stops = rows["stops"]
    written = streams.values(covers[At.WRITE].first(request[0]), "enter_ns")
    stops[:, 0, Stop.BEGUN] = written
    stops[:, 1, Stop.BEGUN] = stops[:, 0, Stop.READ]
    replied = streams.values(covers[At.WRITE].first(reply[0]), "enter_ns")
    overlaps = (replied != UNKNOWN) & (stops[:, 0, Stop.READ] != UNKNOWN) & (replied < stops[:, 0, Stop.READ])
    _tell(rows, ways, turns.call[complete], port)
    rows["number"] = turns.number[complete]
    rows = rows[~overlaps]
    rows = rows[np.argsort(rows["time_ns"], kind="stable")]
    return Exchanges(rows, unasked, unanswered, int(overlaps.sum()))


@dataclass(frozen=True)
class _Turns:
    """Turns of connections: positions of the bytes asked and answered, one call of each, and its number in the connection."""

    request_start: Integers
    request_end: Integers
    reply_start: Integers
    reply_end: Integers
    call: Integers
    number: Integers


def _turns(ways: Ways, port: int) -> _Turns:
    streams, events = ways.streams, ways.events
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
    if not len(calls):
        nothing = np.zeros(0, np.int64)
        return _Turns(nothing, nothing, nothing, nothing, nothing, nothing)
    fresh = np.append(True, connection[1:] != connection[:-1])
    begins = fresh | np.append(True, asks[1:] & ~asks[:-1])
    firsts = np.flatnonzero(begins)
    far = np.iinfo(np.int64).max
    start, end = streams.start[calls], streams.end[calls]

    def bounds(mine: npt.NDArray[np.bool_]) -> tuple[Integers, Integers]:
        lowest = np.minimum.reduceat(np.where(mine, start, far), firsts)
        return lowest, np.maximum.reduceat(np.where(mine, end, -far), firsts)

    turn = np.arange(len(firsts))
    asked_before = ~asks[firsts] & fresh[firsts]  # what comes before any request is nobody's reply
    first_of_connection = np.maximum.accumulate(np.where(fresh[firsts], turn + asked_before, 0))
    return _Turns(*bounds(asks), *bounds(~asks), calls[firsts], turn - first_of_connection)


def _tell(rows: Rows, ways: Ways, calls: Integers, port: int) -> None:
    """Fill in, in place, who talks and how long what took; `calls` gives one call of each row."""
    events = ways.events[calls]
    to_server = events["dport"] == port
    for end, ours, theirs in (("c", "s", "d"), ("s", "d", "s")):
        rows[f"{end}addr"] = np.where(to_server[:, None], events[f"{ours}addr"], events[f"{theirs}addr"])
        rows[f"{end}port"] = np.where(to_server, events[f"{ours}port"], events[f"{theirs}port"])
    rows["connection"] = ways.streams.connection[calls]
    rows["layers_ns"] = layers_ns(rows["stops"])
    flat = rows["stops"].reshape(len(rows), len(LEGS) * len(Stop))
    rows["elsewhere_ns"] = elsewhere_ns(np.delete(flat, len(Stop) + Stop.BEGUN, axis=1))
    known = np.where(flat == UNKNOWN, np.iinfo(np.int64).max, flat)
    rows["time_ns"] = known.min(axis=1, initial=np.iinfo(np.int64).max)
    rows["total_ns"] = flat.max(axis=1, initial=UNKNOWN) - rows["time_ns"]
