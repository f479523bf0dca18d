"""The bounded table of open connections: the batch-by-batch version of lab/probes/duration/measure.py.

The table keeps the relevant segments of each connection and measures them again when a new segment arrives or a timer
expires. What does not live here: the meaning of the segments (lab/probes/duration/measure.py).
"""

import numpy as np

from lab.arrays import Events, Index, Mask, Rows, concatenated, extended
from lab.probes.duration.grouping import counted
from lab.probes.duration.measure import Followed, follow
from lab.tcp import SYN_TIMEOUT_NS, Ended

MOST_CONNECTIONS = 100_000
LINGER_NS = 60_000_000_000
"""Ended connections stay in the table as long as TIME_WAIT, so that a late segment does not begin a connection."""

_NEVER = np.iinfo(np.int64).max
_FREE = -1
_BUCKETS = 1 << 16


class Tracker:
    """Turn batches of segments into rows of connections that have ended.

    If there are more than `most` connections, the table forgets ended ones first, then open ones, each from the oldest
    on. `forgotten` counts the forgotten open connections: their end is not reported.

    A connection of which only the client's segments pass is first reported as a timeout, if it is open for longer, and
    again when it ends.
    """

    def __init__(self, syn_timeout_ns: int = SYN_TIMEOUT_NS, most: int = MOST_CONNECTIONS) -> None:
        self._syn_timeout_ns, self._most = syn_timeout_ns, most
        self._kept: Events | None = None  # an entry whose `number` is _FREE is empty
        self._waiting: Events | None = None
        self._horizon_ns = 0
        self._next_number = 0
        self.forgotten = 0

    def __len__(self) -> int:
        """Return the number of connections in the table, including those that have ended recently."""
        return 0 if self._kept is None else int(self._kept["is_head"].sum())

    def take(self, fresh: Events, now_ns: int) -> "Rows | None":
        """Add a batch of segments; return the connections that have ended, in order of time, None if there are none.

        Different processors can write segments to the ring out of order, but never by more than one batch. So the
        segments of a batch are processed with the next batch, sorted by time.
        """
        arrived = _carried(fresh)
        if self._kept is None or self._waiting is None:
            self._kept, self._waiting = arrived[:0].copy(), arrived[:0]
        self._waiting = concatenated([self._waiting, arrived])
        ready = self._waiting["time_ns"] <= self._horizon_ns
        due, self._waiting = self._waiting.compress(ready), self._waiting.compress(~ready)
        self._horizon_ns = now_ns
        return self._advance(self._kept, due, now_ns)

    def finish(self, now_ns: int) -> "tuple[Rows | None, Rows | None]":
        """Process the last batch; return the connections that have ended, and those that are still open."""
        if self._kept is None or self._waiting is None:
            return None, None
        ended = self._advance(self._kept, self._waiting, now_ns)
        rows = follow(self._kept[self._kept["number"] != _FREE], now_ns, self._syn_timeout_ns).rows
        return ended, rows[(rows["ended"] == Ended.OPEN) & (rows["seen"] > 0)]

    def _advance(self, kept: Events, due: Events, now_ns: int) -> "Rows | None":
        """Measure the connections with due segments or an expired timer again; return those that have ended since."""
        has_due_segment = np.zeros(_BUCKETS, bool)
        has_due_segment[due["bucket"]] = True
        expired = kept["due_ns"] <= now_ns
        affected = np.flatnonzero((has_due_segment[kept["bucket"]] | expired) & (kept["number"] != _FREE))
        if not len(due) and not len(affected):
            return None
        followed = follow(concatenated([kept.take(affected), due]), now_ns, self._syn_timeout_ns)
        rows, connection = followed.rows, followed.grouped.connection
        reported = np.zeros(len(rows), np.uint8)
        np.maximum.at(reported, connection, followed.grouped.segments["reported"])
        ended = rows["ended"] != Ended.OPEN
        timeout = rows["ended"] == Ended.TIMEOUT
        survives = self._survives(followed, now_ns)
        due_ns = np.where(rows["answered"] > 0, _NEVER, rows["last_syn_ns"] + self._syn_timeout_ns + 1)
        due_ns = np.where(ended & ~timeout, rows["over_ns"] + LINGER_NS, due_ns)
        due_ns[timeout] = _NEVER
        remaining = _folded(followed)
        row_of = remaining["number"]
        remaining["due_ns"], remaining["reported"] = due_ns[row_of], rows["ended"][row_of]
        remaining = remaining[survives[row_of]]
        remaining["number"] += self._next_number
        self._next_number += len(rows)
        self._free(kept, affected)
        self._kept = self._stored(kept, remaining)
        self._bound(self._kept)
        told = (reported != Ended.OPEN) & ((reported != Ended.TIMEOUT) | timeout)
        fresh = rows[ended & ~told & (rows["seen"] > 0)]
        if not len(fresh):
            return None
        return fresh.take(np.argsort(np.maximum(fresh["over_ns"], fresh["last_syn_ns"]), kind="stable"))

    @staticmethod
    def _survives(followed: Followed, now_ns: int) -> Mask:
        """Mark the connections that a later segment may belong to.

        A client without an answer sends its SYN again. If it did not, the answer can have passed another interface.
        """
        rows = followed.rows
        timeout = rows["ended"] == Ended.TIMEOUT
        over = (rows["ended"] == Ended.REPLACED) | followed.grouped.replaced
        over |= timeout & (rows["syn_retransmissions"] > 0)
        over |= ~timeout & (rows["ended"] != Ended.OPEN) & (rows["over_ns"] + LINGER_NS <= now_ns)
        return np.asarray(~over & (rows["seen"] > 0))

    @staticmethod
    def _free(kept: Events, which: Index) -> None:
        """Empty these entries."""
        kept["number"][which], kept["is_head"][which] = _FREE, 0

    @staticmethod
    def _stored(kept: Events, remaining: Events) -> Events:
        """Write segments to free entries. The other entries are not copied."""
        room = np.flatnonzero(kept["number"] == _FREE)
        if len(room) < len(remaining):
            more = np.zeros(max(len(kept), len(remaining)), kept.dtype)
            more["number"] = _FREE
            room = np.append(room, np.arange(len(kept), len(kept) + len(more)))
            kept = concatenated([kept, more])
        kept[room[: len(remaining)]] = remaining
        return kept

    def _bound(self, kept: Events) -> None:
        """Forget connections if there are more than the maximum."""
        if (surplus := len(self) - self._most) <= 0:
            return
        heads = kept[kept["is_head"] > 0]
        # Forget a tenth more than needed, so that a full table is not searched for every batch.
        leaving = heads.take(np.lexsort((heads["time_ns"], heads["reported"] == 0)))[: surplus + self._most // 10]
        self.forgotten += int((leaving["reported"] == 0).sum())
        self._free(kept, np.flatnonzero(np.isin(kept["number"], leaving["number"])))


def _carried(segments: Events) -> Events:
    """Add the fields in which the table keeps the state of a segment's connection."""
    result = extended(counted(segments), due_ns="i8", number="i8", bucket="u2", is_head="u1", reported="u1")
    # A hash that is equal for both directions of a flow. Flows in one bucket are only measured together.
    result["bucket"] = (segments["sport"] * np.uint16(40503)) + (segments["dport"] * np.uint16(40503))
    for name in ("saddr", "daddr"):
        result["bucket"] += np.ascontiguousarray(segments[name]).view("<u2").sum(axis=1, dtype=np.uint16)
    return result


def _folded(followed: Followed) -> Events:
    """Return one segment per connection, kind and sender, with its copies; `number` is the connection's row."""
    grouped = followed.grouped
    relevant = np.flatnonzero(followed.relevant)
    _, first, number = np.unique(grouped.alike()[relevant], return_index=True, return_inverse=True)
    folded = grouped.segments[relevant[first]]
    same_way = grouped.segments["ingress"][relevant] == folded["ingress"][number]
    folded["copies"] = 0
    np.add.at(folded["copies"], number[same_way], grouped.segments["copies"][relevant[same_way]])
    np.maximum.at(folded["last_ns"], number, grouped.segments["last_ns"][relevant])
    folded["number"] = grouped.connection[relevant[first]]
    _, heads = np.unique(folded["number"], return_index=True)
    folded["is_head"] = 0
    folded["is_head"][heads] = 1
    return folded
