"""Follow connections live: turn batches of steps into the rows to show.

What lives here: the filters, and the memory of sockets from batch to batch, with its limits. What does not: joining
one batch (lab/probes/analyse/measure.py).
"""

from collections.abc import Sequence

import numpy as np

from lab.arrays import UNKNOWN, Events, Mask, Rows, concatenated
from lab.choice import EVERYTHING, Choice
from lab.live.filters import of_process, wanted
from lab.probes.analyse.measure import Kind, Role, joined, kept, latency_ns, uncalled
from lab.units import SECOND

MOST_OPEN = 100_000
"""Limit of remembered sockets. The oldest beyond it are forgotten and counted."""

MOST_WAITING = 100_000
"""Limit of rows that wait for their owner or port. The oldest beyond it are dropped and counted."""

_NO_ROWS: Rows = np.zeros(0, [("time_ns", "u8")])


class Tracker:
    """Turns batches of events into the rows to show, both in order of time.

    A filter may need a field that is still unknown: the owner before accept(), or the local port before connect() has
    bound one. The row then waits until another row of its socket has the field. It is shown late instead of not at
    all.
    """

    def __init__(
        self,
        role: Role,
        choice: Choice = EVERYTHING,
        *,
        tgids: Sequence[int] = (),
        comms: Sequence[str] = (),
        least_ns: int | None = None,
    ) -> None:
        self._role, self._choice, self._least_ns = role, choice, least_ns
        self._tgids, self._comms = tgids, [name.encode() for name in comms]
        self._known = self._waiting = _NO_ROWS
        self._all_taken_ns = 0
        self._forgotten = 0
        self._dropped = 0
        self._uncalled = 0

    def rows(self, batch: Events) -> Rows:
        """Return the rows of this batch, and those that waited, which pass the filters."""
        rows = joined(self._take_known(batch))
        fresh = rows["kept"] == 0
        waits = fresh & self._waits(rows)
        self._remember(rows)
        # No later row can name the owner of a socket that was destroyed or forgotten.
        over = np.isin(rows["socket"], rows["socket"][rows["kind"] == Kind.DESTROYED])
        over |= ~np.isin(rows["skaddr"], self._known["skaddr"])
        self._dropped += int((waits & over).sum())
        waiting = rows[waits & ~over]
        self._dropped += max(0, len(waiting) - MOST_WAITING)
        self._waiting = waiting[-MOST_WAITING:]
        shown = rows[fresh & ~waits & self._wanted(rows)]
        self._uncalled += int(uncalled(shown).sum())
        return shown

    def end(self) -> str:
        """Return the closing note: what was not shown, not observed or forgotten; empty if nothing."""
        notes = []
        unknown = self._dropped + len(self._waiting)
        if unknown:
            notes.append(f"{unknown} steps are not shown: their process or their local port is unknown")
        if self._uncalled:
            notes.append(
                f"{self._uncalled} opens, sends and receives were made by calls that are not observed: io_uring, 32-bit "
                "programs, and calls in progress when the tool started"
            )
        if self._forgotten:
            notes.append(f"more than {MOST_OPEN} sockets were open: {self._forgotten} were forgotten")
        return "; ".join(notes)

    def _take_known(self, batch: Events) -> Rows:
        """Return a batch preceded by the waiting rows and the kept rows of its sockets.

        Once a second the kept rows of all sockets are returned, so that `_remember` can forget the destroyed ones.
        """
        fresh = np.zeros(len(batch), joined(batch[:0]).dtype)
        fresh["connecting_ns"], fresh["connect_ns"] = UNKNOWN, UNKNOWN
        for name in batch.dtype.names or ():
            fresh[name] = batch[name]
        if not len(self._known) and not len(self._waiting):
            self._known, self._waiting = fresh[:0], fresh[:0]  # with the fields of these events
        newest_ns = int(fresh["time_ns"].max(initial=0))
        joining = concatenated([self._waiting, fresh])
        touched = np.isin(self._known["skaddr"], joining["skaddr"]) | (fresh["skaddr"] == 0).any()
        touched |= np.isin(self._known["mptcp"], joining["mptcp"][joining["mptcp"] > 0])
        if newest_ns > self._all_taken_ns + SECOND:
            self._all_taken_ns = newest_ns
            touched[:] = True
        taken, self._known = self._known.compress(touched), self._known.compress(~touched)
        return concatenated([taken, joining])

    def _candidates(self, rows: Rows) -> Mask:
        """Return which rows pass the filters by role and latency, whose fields are never late."""
        wanted = np.isin(rows["role"], (self._role, Role.UNKNOWN))
        if self._least_ns is not None:
            wanted &= latency_ns(rows) >= self._least_ns
        return wanted

    def _waits(self, rows: Rows) -> Mask:
        """Return which candidates lack a field that another filter needs."""
        unknown = np.zeros(len(rows), bool)
        if self._tgids or self._comms:
            unknown |= (rows["tgid"] == 0) & (rows["skaddr"] > 0)
        if self._choice.ports or self._choice.local_ports:
            unknown |= rows["lport"] == 0
        return unknown & self._candidates(rows)

    def _wanted(self, rows: Rows) -> Mask:
        """Return which rows pass all filters."""
        return self._candidates(rows) & wanted(self._choice, rows) & of_process(rows, self._tgids, self._comms)

    def _remember(self, rows: Rows) -> None:
        """Keep what is known of the sockets, up to `MOST_OPEN` of them, and for a second after they were destroyed.

        A call can return after that, for example close() itself.
        """
        newest_ns = int(rows["time_ns"].max(initial=0))
        known = concatenated([self._known, kept(rows, max(0, newest_ns - SECOND))])
        if len(known) > MOST_OPEN:
            known = self._latest(known)
        self._known = known

    def _latest(self, known: Rows) -> Rows:
        """Forget the oldest of more than `MOST_OPEN` sockets."""
        begun_ns = np.sort(known["begun_ns"][known["kind"] != Kind.DESTROYED])
        if len(begun_ns) > MOST_OPEN:
            self._forgotten += len(begun_ns) - MOST_OPEN
            known = known.compress(known["begun_ns"] >= begun_ns[-MOST_OPEN])
        return known
