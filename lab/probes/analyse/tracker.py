"""Following connections live: batches of steps in, rows to show out, with what the sockets so far are known to be.

What lives here: filters, and what a long run must remember and forget. What does not: joining one batch
(lab/probes/analyse/measure.py).
"""

import numpy as np

from lab.arrays import UNKNOWN, Events, Mask, Rows
from lab.probes.analyse.measure import Kind, Role, carried, joined, latency_ns
from lab.units import SECOND

MOST_OPEN = 100_000
"""Sockets that are remembered; when there are more, the oldest are forgotten and counted."""

MOST_WAITING = 100_000
"""Rows that wait for their owner or port; when there are more, the oldest are dropped and counted."""

_NO_ROWS: Rows = np.zeros(0, [("time_ns", "u8")])


class Tracker:
    """Turns batches of events, in order of time, into rows to show, in order of time.

    A row that a filter asks something of which is not known yet (the owner of a connection before accept(), the local port before
    connect() has bound one) waits for its socket's rows that tell, and is judged by them: it comes late rather than not at all.
    """

    def __init__(
        self,
        role: Role,
        *,
        tgid: int | None = None,
        lports: list[int] | None = None,
        least_ns: int | None = None,
    ) -> None:
        self._role, self._tgid, self._lports, self._least_ns = role, tgid, lports, least_ns
        self._known = self._waiting = _NO_ROWS
        self._looked_ns = 0
        self._forgotten = 0
        self._dropped = 0

    def rows(self, batch: Events) -> Rows:
        """Return the rows that can be shown now."""
        rows = joined(self._take_known(batch))
        fresh = rows["carried"] == 0
        waits = fresh & self._waits(rows)
        self._remember(rows)
        # Who owned a socket that is gone, nobody will tell any more.
        over = np.isin(rows["socket"], rows["socket"][rows["kind"] == Kind.DESTROYED])
        over |= ~np.isin(rows["skaddr"], self._known["skaddr"])
        self._dropped += int((waits & over).sum())
        waiting = rows[waits & ~over]
        self._dropped += max(0, len(waiting) - MOST_WAITING)
        self._waiting = waiting[-MOST_WAITING:]
        return rows[fresh & ~waits & self._wanted(rows)]

    def end(self) -> str:
        """Return what remains to be said when the tool ends."""
        notes = []
        unknown = self._dropped + len(self._waiting)
        if unknown:
            notes.append(f"{unknown} steps are not shown: whose they are, or their local port, was not to be known")
        if self._forgotten:
            notes.append(f"more than {MOST_OPEN} sockets were open: {self._forgotten} were forgotten")
        return "; ".join(notes)

    def _take_known(self, batch: Events) -> Rows:
        """Return a batch together with what is known of its sockets; once a second of all, so that what is over is forgotten."""
        fresh = np.zeros(len(batch), joined(batch[:0]).dtype)
        fresh["connecting_ns"], fresh["connect_ns"] = UNKNOWN, UNKNOWN
        for name in batch.dtype.names or ():
            fresh[name] = batch[name]
        if not len(self._known) and not len(self._waiting):
            self._known, self._waiting = fresh[:0], fresh[:0]  # as wide as this probe's events
        newest_ns = int(fresh["time_ns"].max(initial=0))
        joining = np.concatenate([self._waiting, fresh])
        touched = np.isin(self._known["skaddr"], joining["skaddr"]) | (fresh["skaddr"] == 0).any()
        if newest_ns > self._looked_ns + SECOND:
            self._looked_ns = newest_ns
            touched[:] = True
        taken, self._known = self._known[touched], self._known[~touched]
        return np.concatenate([taken, joining])

    def _candidates(self, rows: Rows) -> Mask:
        """Tell which rows are wanted as far as everything goes that never has to be waited for."""
        wanted = np.isin(rows["role"], (self._role, Role.UNKNOWN))
        if self._least_ns is not None:
            wanted &= latency_ns(rows) >= self._least_ns
        return wanted

    def _waits(self, rows: Rows) -> Mask:
        unknown = np.zeros(len(rows), bool)
        if self._tgid is not None:
            unknown |= (rows["tgid"] == 0) & (rows["skaddr"] > 0)
        if self._lports:
            unknown |= rows["lport"] == 0
        return unknown & self._candidates(rows)

    def _wanted(self, rows: Rows) -> Mask:
        wanted = self._candidates(rows)
        if self._tgid is not None:
            wanted &= rows["tgid"] == self._tgid
        if self._lports:
            wanted &= np.isin(rows["lport"], self._lports)
        return wanted

    def _remember(self, rows: Rows) -> None:
        # A call can be about to return from a socket that is gone: close() itself, for one.
        newest_ns = int(rows["time_ns"].max(initial=0))
        known = np.concatenate([self._known, carried(rows, max(0, newest_ns - SECOND))])
        begun_ns = np.sort(known["begun_ns"][known["kind"] != Kind.DESTROYED])
        if len(begun_ns) > MOST_OPEN:
            kept = known["begun_ns"] >= begun_ns[-MOST_OPEN]
            self._forgotten += len(begun_ns) - MOST_OPEN
            known = known[kept]
        self._known = known
