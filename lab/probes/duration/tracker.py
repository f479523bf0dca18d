"""The connections that are under way, fed with segments as they come: a table with a bound.

It keeps the few segments that each connection consists of, so that lab/probes/duration/measure.py is the only place
that knows what they mean; only connections that something has happened to are looked at again.
"""

import numpy as np

from lab.arrays import Events, Index, Mask, Rows
from lab.probes.duration.grouping import counted
from lab.probes.duration.measure import Followed, follow
from lab.tcp import SYN_TIMEOUT_NS, Ended

MOST_CONNECTIONS = 100_000
LINGER_NS = 60_000_000_000
"""What has ended is remembered for as long as TIME_WAIT lasts, so that a late segment of it is not taken for another connection's."""

_NEVER = np.iinfo(np.int64).max
_FREE = -1
_BUCKETS = 1 << 16


class Tracker:
    """Turns batches of segments into rows of connections that have ended.

    Of more than `most` connections those that have ended longest ago are forgotten first, then the oldest; `forgotten` counts
    the ones whose end is not reported therefore.
    """

    def __init__(self, syn_timeout_ns: int = SYN_TIMEOUT_NS, most: int = MOST_CONNECTIONS) -> None:
        self._syn_timeout_ns, self._most = syn_timeout_ns, most
        self._kept: Events | None = None  # rows whose `number` is _FREE have no segment
        self._waiting: Events | None = None
        self._horizon_ns = 0
        self._next_number = 0
        self.forgotten = 0

    def __len__(self) -> int:
        """How many connections it holds, those that have just ended included."""
        return 0 if self._kept is None else int(self._kept["is_head"].sum())

    def take(self, fresh: Events, now_ns: int) -> "Rows | None":
        """Take the segments that have come; returns the connections that have ended, in order, None when none have.

        Segments are put in order of time across processors: one may be in the ring later than another that has a later stamp,
        but by the second look at the latest. So each waits for the look after the one that found it.
        """
        arrived = _carried(fresh)
        if self._kept is None or self._waiting is None:
            self._kept, self._waiting = arrived[:0].copy(), arrived[:0]
        self._waiting = np.concatenate([self._waiting, arrived])
        ready = self._waiting["time_ns"] <= self._horizon_ns
        due, self._waiting = self._waiting[ready], self._waiting[~ready]
        self._horizon_ns = now_ns
        return self._advance(self._kept, due, now_ns)

    def finish(self, now_ns: int) -> "tuple[Rows | None, Rows | None]":
        """Take what still waits, when nothing more will come; returns the connections that have ended, and those still open."""
        if self._kept is None or self._waiting is None:
            return None, None
        ended = self._advance(self._kept, self._waiting, now_ns)
        rows = follow(self._kept[self._kept["number"] != _FREE], now_ns, self._syn_timeout_ns).rows
        return ended, rows[(rows["ended"] == Ended.OPEN) & (rows["seen"] > 0)]

    def _advance(self, kept: Events, due: Events, now_ns: int) -> "Rows | None":
        concerned = np.zeros(_BUCKETS, bool)
        concerned[due["bucket"]] = True
        again = np.flatnonzero((concerned[kept["bucket"]] | (kept["due_ns"] <= now_ns)) & (kept["number"] != _FREE))
        if not len(due) and not len(again):
            return None
        followed = follow(np.concatenate([kept[again], due]), now_ns, self._syn_timeout_ns)
        rows, connection = followed.rows, followed.grouped.connection
        reported = np.zeros(len(rows), bool)
        reported[connection[followed.grouped.segments["reported"] > 0]] = True
        ended = rows["ended"] != Ended.OPEN
        survives = self._survives(followed, now_ns)
        due_ns = np.where(rows["answered"] > 0, _NEVER, rows["last_syn_ns"] + self._syn_timeout_ns + 1)
        due_ns = np.where(ended, rows["over_ns"] + LINGER_NS, due_ns)
        still = _folded(followed)
        owner = still["number"]
        still["due_ns"], still["reported"] = due_ns[owner], ended[owner]
        still = still[survives[owner]]
        still["number"] += self._next_number
        self._next_number += len(rows)
        self._free(kept, again)
        self._kept = self._stored(kept, still)
        self._bound(self._kept)
        shown = rows[ended & ~reported & (rows["seen"] > 0)]
        return (
            shown[np.argsort(np.maximum(shown["over_ns"], shown["last_syn_ns"]), kind="stable")] if len(shown) else None
        )

    @staticmethod
    def _survives(followed: Followed, now_ns: int) -> Mask:
        """Tell which connections a later segment may still belong to."""
        rows = followed.rows
        over = np.isin(rows["ended"], (Ended.TIMEOUT, Ended.REPLACED)) | followed.grouped.replaced
        over |= (rows["ended"] != Ended.OPEN) & (rows["over_ns"] + LINGER_NS <= now_ns)
        return np.asarray(~over & (rows["seen"] > 0))

    @staticmethod
    def _free(kept: Events, which: Index) -> None:
        kept["number"][which], kept["is_head"][which] = _FREE, 0

    @staticmethod
    def _stored(kept: Events, still: Events) -> Events:
        """Put segments where there is room: what nothing happens to is not even copied."""
        room = np.flatnonzero(kept["number"] == _FREE)
        if len(room) < len(still):
            more = np.zeros(max(len(kept), len(still)), kept.dtype)
            more["number"] = _FREE
            room = np.append(room, np.arange(len(kept), len(kept) + len(more)))
            kept = np.concatenate([kept, more])
        kept[room[: len(still)]] = still
        return kept

    def _bound(self, kept: Events) -> None:
        if (surplus := len(self) - self._most) <= 0:
            return
        heads = kept[kept["is_head"] > 0]
        # A tenth more than needed, so that a full table is not cleared anew each time.
        leaving = heads[np.lexsort((heads["time_ns"], heads["reported"] == 0))][: surplus + self._most // 10]
        self.forgotten += int((leaving["reported"] == 0).sum())
        self._free(kept, np.flatnonzero(np.isin(kept["number"], leaving["number"])))


def _carried(segments: Events) -> Events:
    """Give each segment room for what the table notes about its connection."""
    narrow = counted(segments)
    notes = [("due_ns", "i8"), ("number", "i8"), ("bucket", "u2"), ("is_head", "u1"), ("reported", "u1")]
    result = np.zeros(len(narrow), [*((name, narrow.dtype[name]) for name in narrow.dtype.names or ()), *notes])
    for name in narrow.dtype.names or ():
        result[name] = narrow[name]
    # The same for both directions of a flow; flows that share a bucket are merely looked at together.
    result["bucket"] = (segments["sport"] * np.uint16(40503)) + (segments["dport"] * np.uint16(40503))
    for name in ("saddr", "daddr"):
        result["bucket"] += np.ascontiguousarray(segments[name]).view("<u2").sum(axis=1, dtype=np.uint16)
    return result


def _folded(followed: Followed) -> Events:
    """Keep one segment of each kind of each connection, with the number of its copies; `number` is the connection's row."""
    grouped = followed.grouped
    told = np.flatnonzero(followed.told)
    _, first, number = np.unique(grouped.alike()[told], return_index=True, return_inverse=True)
    folded = grouped.segments[told[first]]
    same_way = grouped.segments["ingress"][told] == folded["ingress"][number]
    folded["copies"] = 0
    np.add.at(folded["copies"], number[same_way], grouped.segments["copies"][told[same_way]])
    np.maximum.at(folded["last_ns"], number, grouped.segments["last_ns"][told])
    folded["number"] = grouped.connection[told[first]]
    _, heads = np.unique(folded["number"], return_index=True)
    folded["is_head"] = 0
    folded["is_head"][heads] = 1
    return folded
