"""Follow requests live: turn batches of points into requests, or into segments, as soon as they are complete.

What lives here: which points are kept from batch to batch, and for how long. What does not: pairing requests and
replies (lab/probes/layers/requests.py).
"""

from collections import Counter

import numpy as np

from lab.arrays import UNKNOWN, Events, Integers, Mask, Rows, concatenated, in_order
from lab.packet import FIN, RST
from lab.probes.layers.requests import GAP_NS, REQUEST, Kind, Requests, requests
from lab.probes.layers.stages import At, Ports, Stages, Stop, are_servers
from lab.probes.layers.translations import Translations
from lab.units import MS, SECOND

QUIET_NS = SECOND
"""A segment is shown this long after it was sent."""

OVER_NS = 50 * MS
"""A reply counts as complete when its connection was closed by both ends, or reset, and had no points for this long."""

TRANSLATED = "connections through an address translation, shown with the addresses that their clients use"

MOST_POINTS = 400_000
"""Limit of kept points. The oldest beyond it are forgotten and counted."""


def _together(kept: "Events | None", batch: Events) -> Events:
    """Return kept points and those of a batch by time: the point of a system call comes when it returns, after others."""
    return in_order(batch if kept is None else concatenated([kept, batch]))


class RequestTracker:
    """Turns batches of points, in order of time, into all rows of `requests`: requests, stretches and pushes.

    A row is returned when its reply is complete: the client has written again, or has read all for `gap_ns` (for
    `OVER_NS` after a close).
    """

    def __init__(self, ports: Ports, inodes: tuple[int, ...] | None, gap_ns: int = GAP_NS) -> None:
        self._ports, self._inodes, self._gap_ns = ports, inodes, gap_ns
        self._kept: Events | None = None
        self._counts: Counter[str] = Counter()
        self._translations = Translations(ports)

    def rows(self, batch: Events, now_ns: int, *, final: bool = False) -> Rows:
        """Return the rows that are complete.

        The batches so far have all points up to `now_ns`. The `final` batch is the last one.
        """
        points = self._translations.undo(_together(self._kept, batch))
        stages = Stages(points, self._inodes)
        found = requests(stages, self._ports, self._gap_ns)
        over = np.ones(len(found.turns.call), bool) if final else self._over(stages, found, now_ns)
        self._keep(stages, found, over)
        if final:
            self._counts["requests without a reply"] += int((found.turns.asked & ~found.turns.answered).sum())
        return found.every[over[found.turn]] if len(found.every) else np.zeros(0, REQUEST)

    def end(self) -> str:
        """Return the closing note: what could not be shown, and what was translated; empty if none."""
        self._counts[TRANSLATED] = self._translations.count
        return "; ".join(f"{what}: {count}" for what, count in self._counts.items() if count)

    def _over(self, stages: Stages, found: Requests, now_ns: int) -> Mask:
        """Return which turns are over together with all earlier turns of their connection."""
        turns, streams, events = found.turns, stages.streams, stages.events
        if not len(turns.call):
            return np.zeros(0, bool)
        newest_ns = np.zeros(int(streams.connection.max()) + 1, np.int64)
        np.maximum.at(newest_ns, streams.connection, events["time_ns"].astype(np.int64))
        idle_ns = (now_ns - newest_ns)[turns.connection]
        # A byte of the reply that was seen and not read yet belongs to the turn. A RST after a FIN is behind all bytes.
        seen, data = np.zeros(len(streams.bases) + 1, np.int64), events["length"] > 0
        np.maximum.at(seen, streams.stream(streams.start[data]), streams.end[data])
        unread = turns.answered & (seen[streams.stream(turns.reply_start)] > turns.reply_end)
        closed = self._closed(stages)[turns.connection]
        returned_ns = events["time_ns"][turns.call].astype(np.int64)
        quiet = ~unread & ((now_ns - returned_ns > self._gap_ns) | (closed & (idle_ns > OVER_NS)))
        over = ~turns.last | quiet | (closed & (idle_ns > self._gap_ns))
        over &= turns.answered | ~turns.last  # a request without a reply stays open without a limit
        late = now_ns - found.every["spans_ns"][:, 1, 1] > self._gap_ns
        over[found.turn] &= ~_unreturned(found.every) | late
        waiting = np.cumsum(~over)
        first = _firsts(turns.connection)
        before: Integers = np.repeat(waiting[first] - ~over[first], np.diff(np.append(first, len(over))))
        return waiting == before

    def _closed(self, stages: Stages) -> Mask:
        """Return which connections were closed by both ends, or reset."""
        streams, events = stages.streams, stages.events
        by_client = are_servers(events["dport"], events["sport"], self._ports)
        fin = events["flags"] & FIN > 0
        closed = np.zeros((3, int(streams.connection.max()) + 1), bool)
        for ended, chosen in zip(closed, (fin & by_client, fin & ~by_client, events["flags"] & RST > 0), strict=True):
            ended[streams.connection[chosen]] = True
        return closed[0] & closed[1] | closed[2]

    def _keep(self, stages: Stages, found: Requests, over: Mask) -> None:
        """Keep the points behind the last complete byte of each stream, except segments without data, FIN or RST.

        Of a multiplexed connection that is open, keep one point that says so.
        """
        streams, turns = stages.streams, found.turns
        if len(streams.connection):
            stages.events["multiplexed"][turns.call[found.turn[found.every["kind"] == Kind.STRETCH]]] = 1
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
        kept |= self._marks(stages)
        points = stages.events[kept]
        forgotten = max(0, len(points) - MOST_POINTS)
        self._counts["forgotten points of requests that were too long"] += forgotten
        self._kept = points[forgotten:]

    def _marks(self, stages: Stages) -> Mask:
        """Return the last point of each open connection that says that it is multiplexed."""
        chosen = np.zeros(len(stages.events), bool)
        marks = np.flatnonzero(stages.events["multiplexed"] > 0)
        if len(marks):
            connection = stages.streams.connection
            last = len(marks) - 1 - np.unique(connection[marks][::-1], return_index=True)[1]
            ended = connection[stages.events["flags"] & (FIN | RST) > 0]
            chosen[marks[last]] = ~np.isin(connection[marks[last]], ended)
        return chosen


def _firsts(connection: Integers) -> Integers:
    """Return the index of the first turn of each connection; turns are sorted by connection."""
    return np.flatnonzero(np.append(True, connection[1:] != connection[:-1]))


def _unreturned(rows: Rows) -> Mask:
    """Return which rows lack the point of a write() whose data has already left: the call has not returned."""
    stops = rows["stops"]
    return ((stops[:, :, Stop.WRITTEN] == UNKNOWN) & (stops[:, :, Stop.FIRST_OUT] != UNKNOWN)).any(axis=1)


class SegmentTracker:
    """Turns batches of points into segments (rows of `Stages.packets`), each `QUIET_NS` after it was sent."""

    def __init__(self, ports: Ports, inodes: tuple[int, ...] | None) -> None:
        self._inodes = inodes
        self._kept: Events | None = None
        self._shown_ns = 0
        self._translations = Translations(ports)

    def rows(self, batch: Events, now_ns: int, *, final: bool = False) -> Rows:
        """Return the segments that were sent `QUIET_NS` or longer ago; parameters as in `RequestTracker.rows`."""
        points = self._translations.undo(_together(self._kept, batch))
        stages = Stages(points, self._inodes)
        packets = stages.packets()
        until_ns = now_ns if final else now_ns - QUIET_NS
        shown = (packets["time_ns"] > self._shown_ns) & (packets["time_ns"] <= until_ns)
        self._shown_ns = max(self._shown_ns, until_ns)
        # Segments sent just before may arrive, or be read, just after.
        self._kept = stages.events[stages.events["time_ns"] > max(0, until_ns - QUIET_NS)][-MOST_POINTS:]
        return packets[shown]

    def end(self) -> str:
        """Return the closing note: which connections were translated; empty if none."""
        return f"{TRANSLATED}: {self._translations.count}" if self._translations.count else ""
