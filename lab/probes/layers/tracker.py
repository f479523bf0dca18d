"""Following requests live: batches of points in, requests out as soon as all is known of them.

What lives here: what a long run must keep and may forget. What does not: what belongs together (lab/probes/layers/requests.py).
"""

from collections import Counter

import numpy as np

from lab.arrays import UNKNOWN, Events, Integers, Mask, Rows
from lab.packet import FIN, RST
from lab.probes.layers.requests import REQUEST, Requests, requests
from lab.probes.layers.stages import At, Stages, Stop
from lab.units import MS, SECOND

QUIET_NS = SECOND
"""When the client has read nothing more for so long, and nothing else happens, the reply is taken for complete."""

OVER_NS = 50 * MS
"""The same, where the client has closed the connection."""

MOST_POINTS = 400_000
"""Points that are kept; when there are more, the oldest are forgotten and counted."""


class RequestTracker:
    """Turns batches of points, in order of time, into requests with their replies (rows of `requests`).

    A reply may go on until the client writes again, closes, or has been quiet for a while: only then the request is shown.
    """

    def __init__(self, port: int, inodes: tuple[int, ...] | None) -> None:
        self._port, self._inodes = port, inodes
        self._kept: Events | None = None
        self._strange: Counter[str] = Counter()

    def rows(self, batch: Events, now_ns: int, *, final: bool = False) -> Rows:
        """Return the requests that are over; `now_ns` is a time up to which all points have come. `final`: no more will come."""
        points = batch if self._kept is None else np.concatenate([self._kept, batch])
        # A system call that was under way tells of bytes whose other points have come before.
        stages = Stages(points[np.argsort(points["time_ns"], kind="stable")], self._inodes)
        found = requests(stages, self._port)
        over = np.ones(len(found.exchanges.call), bool) if final else self._over(stages, found, now_ns)
        self._count(found, over)
        self._keep(stages, found, over)
        if final:
            self._strange["requests without a reply"] += int((found.exchanges.asked & ~found.exchanges.answered).sum())
        return found.rows[over[found.exchange]] if len(found.rows) else np.zeros(0, REQUEST)

    def end(self) -> str:
        """Return what remains to be said when the tool ends."""
        return "; ".join(f"{what}: {count}" for what, count in self._strange.items() if count)

    def _over(self, stages: Stages, found: Requests, now_ns: int) -> Mask:
        """Tell which turns are over, and so is every turn before them."""
        exchanges, streams, events = found.exchanges, stages.streams, stages.events
        if not len(exchanges.call):
            return np.zeros(0, bool)
        newest_ns = np.zeros(int(streams.connection.max()) + 1, np.int64)
        np.maximum.at(newest_ns, streams.connection, events["time_ns"].astype(np.int64))
        closed = np.zeros(len(newest_ns), bool)
        by_client = (events["flags"] & FIN > 0) & (events["dport"] == self._port)
        closed[streams.connection[by_client | (events["flags"] & RST > 0)]] = True
        idle_ns = now_ns - newest_ns
        over = ~exchanges.last | (idle_ns > np.where(closed, OVER_NS, QUIET_NS))[exchanges.connection]
        over &= exchanges.answered | ~exchanges.last  # a request waits for its reply however long that takes
        over[found.exchange] &= ~_waits(found.rows) | (idle_ns > QUIET_NS)[found.rows["connection"]]
        waiting = np.cumsum(~over)
        first = _firsts(exchanges.connection)
        before: Integers = np.repeat(waiting[first] - ~over[first], np.diff(np.append(first, len(over))))
        return waiting == before

    def _count(self, found: Requests, over: Mask) -> None:
        exchanges = found.exchanges
        self._strange["sent without having been asked for, or too late"] += int((over & ~exchanges.asked).sum())
        self._strange["replies that began before their request had been read"] += int((over & found.overlaps).sum())

    def _keep(self, stages: Stages, found: Requests, over: Mask) -> None:
        """Keep the points of what is not over."""
        streams, exchanges = stages.streams, found.exchanges
        bound = np.full(len(streams.bases) + 1, -1)
        for some, ends in ((exchanges.asked, exchanges.request_end), (exchanges.answered, exchanges.reply_end)):
            ended = ends[over & some]
            np.maximum.at(bound, streams.stream(ended - 1), ended)
        ended_at = bound[streams.stream(streams.start)]
        kept = np.where(stages.events["at"] == At.READY, streams.start > ended_at, streams.end > ended_at)
        kept &= (
            (stages.events["length"] > 0)
            | (stages.events["at"] == At.READY)
            | (stages.events["flags"] & (FIN | RST) > 0)
        )
        points = stages.events[kept]
        forgotten = max(0, len(points) - MOST_POINTS)
        self._strange["points of requests that were too long, forgotten"] += forgotten
        self._kept = points[forgotten:]


def _firsts(connection: Integers) -> Integers:
    """Return where each connection begins; they are in a row."""
    return np.flatnonzero(np.append(True, connection[1:] != connection[:-1]))


def _waits(rows: Rows) -> Mask:
    """Tell in which rows a system call has handed over what has left already, and has not returned yet."""
    stops = rows["stops"]
    return ((stops[:, :, Stop.WRITTEN] == UNKNOWN) & (stops[:, :, Stop.FIRST_OUT] != UNKNOWN)).any(axis=1)


class SegmentTracker:
    """Turns batches of points into segments (rows of `Stages.packets`), each a second after it was sent."""

    def __init__(self, inodes: tuple[int, ...] | None) -> None:
        self._inodes = inodes
        self._kept: Events | None = None
        self._shown_ns = 0

    def rows(self, batch: Events, now_ns: int, *, final: bool = False) -> Rows:
        """Return the segments of which nothing more is waited for; as for `RequestTracker.rows`."""
        points = batch if self._kept is None else np.concatenate([self._kept, batch])
        stages = Stages(points[np.argsort(points["time_ns"], kind="stable")], self._inodes)
        packets = stages.packets()
        until_ns = now_ns if final else now_ns - QUIET_NS
        shown = (packets["time_ns"] > self._shown_ns) & (packets["time_ns"] <= until_ns)
        self._shown_ns = max(self._shown_ns, until_ns)
        # What was sent before may come, and be read, after.
        self._kept = stages.events[stages.events["time_ns"] > max(0, until_ns - QUIET_NS)][-MOST_POINTS:]
        return packets[shown]

    def end(self) -> str:
        """Return what remains to be said when the tool ends."""
        return ""
