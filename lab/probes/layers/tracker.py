"""Follow requests live: turn batches of points into requests, or into segments, as soon as they are complete.

What lives here: which points are kept from batch to batch, and for how long. What does not: pairing requests and
replies (lab/probes/layers/requests.py).
"""

from collections import Counter

import numpy as np

from lab.arrays import UNKNOWN, Events, Integers, Mask, Rows
from lab.packet import FIN, RST
from lab.probes.layers.requests import REQUEST, Requests, requests
from lab.probes.layers.stages import At, Stages, Stop
from lab.units import MS, SECOND

QUIET_NS = SECOND
"""A reply counts as complete when its connection has had no points for this long."""

OVER_NS = 50 * MS
"""The same for a connection that the client has closed or that was reset."""

MOST_POINTS = 400_000
"""Limit of kept points. The oldest beyond it are forgotten and counted."""


class RequestTracker:
    """Turns batches of points, in order of time, into requests with their replies (rows of `requests`).

    A request is returned when its reply is complete: the client has written again, or the connection has been idle
    for `QUIET_NS` (`OVER_NS` after a close).
    """

    def __init__(self, port: int, inodes: tuple[int, ...] | None) -> None:
        self._port, self._inodes = port, inodes
        self._kept: Events | None = None
        self._counts: Counter[str] = Counter()

    def rows(self, batch: Events, now_ns: int, *, final: bool = False) -> Rows:
        """Return the requests that are complete.

        The batches so far have all points up to `now_ns`. The `final` batch is the last one.
        """
        points = batch if self._kept is None else np.concatenate([self._kept, batch])
        # The point of a system call comes when the call returns, after other points of its bytes.
        stages = Stages(points[np.argsort(points["time_ns"], kind="stable")], self._inodes)
        found = requests(stages, self._port)
        over = np.ones(len(found.turns.call), bool) if final else self._over(stages, found, now_ns)
        self._count(found, over)
        self._keep(stages, found, over)
        if final:
            self._counts["requests without a reply"] += int((found.turns.asked & ~found.turns.answered).sum())
        return found.rows[over[found.turn]] if len(found.rows) else np.zeros(0, REQUEST)

    def end(self) -> str:
        """Return the closing note: how many turns and points could not be shown, and why; empty if none."""
        return "; ".join(f"{what}: {count}" for what, count in self._counts.items() if count)

    def _over(self, stages: Stages, found: Requests, now_ns: int) -> Mask:
        """Return which turns are over together with all earlier turns of their connection."""
        turns, streams, events = found.turns, stages.streams, stages.events
        if not len(turns.call):
            return np.zeros(0, bool)
        newest_ns = np.zeros(int(streams.connection.max()) + 1, np.int64)
        np.maximum.at(newest_ns, streams.connection, events["time_ns"].astype(np.int64))
        closed = np.zeros(len(newest_ns), bool)
        by_client = (events["flags"] & FIN > 0) & (events["dport"] == self._port)
        closed[streams.connection[by_client | (events["flags"] & RST > 0)]] = True
        idle_ns = now_ns - newest_ns
        over = ~turns.last | (idle_ns > np.where(closed, OVER_NS, QUIET_NS))[turns.connection]
        over &= turns.answered | ~turns.last  # a request without a reply stays open without a limit
        over[found.turn] &= ~_unreturned(found.rows) | (idle_ns > QUIET_NS)[found.rows["connection"]]
        waiting = np.cumsum(~over)
        first = _firsts(turns.connection)
        before: Integers = np.repeat(waiting[first] - ~over[first], np.diff(np.append(first, len(over))))
        return waiting == before

    def _count(self, found: Requests, over: Mask) -> None:
        self._counts["replies without a request, or after it was shown"] += int((over & ~found.turns.asked).sum())
        self._counts["replies that began before their request was read"] += int((over & found.overlaps).sum())

    def _keep(self, stages: Stages, found: Requests, over: Mask) -> None:
        """Keep the points behind the last complete byte of each stream, except segments without data, FIN or RST."""
        streams, turns = stages.streams, found.turns
        bound = np.full(len(streams.bases) + 1, -1)
        for exists, ends in ((turns.asked, turns.request_end), (turns.answered, turns.reply_end)):
            ended = ends[over & exists]
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
        self._counts["forgotten points of requests that were too long"] += forgotten
        self._kept = points[forgotten:]


def _firsts(connection: Integers) -> Integers:
    """Return the index of the first turn of each connection; turns are sorted by connection."""
    return np.flatnonzero(np.append(True, connection[1:] != connection[:-1]))


def _unreturned(rows: Rows) -> Mask:
    """Return which rows lack the point of a write() whose data has already left: the call has not returned."""
    stops = rows["stops"]
    return ((stops[:, :, Stop.WRITTEN] == UNKNOWN) & (stops[:, :, Stop.FIRST_OUT] != UNKNOWN)).any(axis=1)


class SegmentTracker:
    """Turns batches of points into segments (rows of `Stages.packets`), each `QUIET_NS` after it was sent."""

    def __init__(self, inodes: tuple[int, ...] | None) -> None:
        self._inodes = inodes
        self._kept: Events | None = None
        self._shown_ns = 0

    def rows(self, batch: Events, now_ns: int, *, final: bool = False) -> Rows:
        """Return the segments that were sent `QUIET_NS` or longer ago; parameters as in `RequestTracker.rows`."""
        points = batch if self._kept is None else np.concatenate([self._kept, batch])
        stages = Stages(points[np.argsort(points["time_ns"], kind="stable")], self._inodes)
        packets = stages.packets()
        until_ns = now_ns if final else now_ns - QUIET_NS
        shown = (packets["time_ns"] > self._shown_ns) & (packets["time_ns"] <= until_ns)
        self._shown_ns = max(self._shown_ns, until_ns)
        # Segments sent just before may arrive, or be read, just after.
        self._kept = stages.events[stages.events["time_ns"] > max(0, until_ns - QUIET_NS)][-MOST_POINTS:]
        return packets[shown]

    def end(self) -> str:
        """Return the closing note: always empty."""
        return ""
