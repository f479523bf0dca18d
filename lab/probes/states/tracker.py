"""The batch-by-batch version of lab/probes/states/measure.py: from batches of state changes to rows to print.

What lives here: the rows kept for open sockets, and the filters. What does not: the measurement itself.
"""

import numpy as np

from lab.arrays import Events, Index, Mask, Rows, concatenated, extended, narrowed
from lab.choice import Choice
from lab.live.filters import in_version, wanted
from lab.probes.states.measure import superseded, transitions
from lab.tcp import State

_ENDED = (State.CLOSE, State.TIME_WAIT)
_MOST_OPEN = 1_000_000
_BUCKETS = 1 << 16


class Tracker:
    """Turn batches of events into rows to print; keep the last row of each open socket for a later batch.

    The remote port is unknown at SYN_RECV, the local port at SYN_SENT. A SYN_RECV row is held back until the socket's
    next row, which has the port; so is a SYN_SENT row if local ports are chosen.
    """

    def __init__(self, choice: Choice) -> None:
        self._choice = choice
        self._open = _Open()
        self._ended: list[Rows] = []
        self._forgotten = 0
        self._gaps = 0

    def rows(self, batch: Events) -> Rows:
        """Return the rows that can be printed after this batch, in order of time."""
        fresh = extended(batch, shown="u1", carried="u1")
        changes = concatenated([*self._open.take(fresh), *self._ended, fresh])
        rows = transitions(changes)
        self._gaps += int(rows["gap"].sum())
        held_back = self._held_back(rows)
        due = (rows["shown"] == 0) & ~held_back
        shown = rows.compress(due & wanted(self._choice, rows))
        rows["shown"] |= ~held_back
        self._carry(rows, changes.dtype)
        return shown

    def end(self) -> str:
        """Return the closing note: rows that are missing, and sockets not printed or forgotten; "" if there are none."""
        notes = []
        if self._gaps:
            notes.append(
                f"the output is not complete: at {self._gaps} rows, at least one change of state before is missing, for "
                "which the kernel did not run the probe"
            )
        if held_back := self._open.held_back():
            notes.append(f"{held_back} connections had no port yet and are not shown")
        if self._forgotten:
            notes.append(f"more than {_MOST_OPEN} sockets were open: {self._forgotten} were forgotten")
        return "; ".join(notes)

    def _held_back(self, rows: Rows) -> Mask:
        """Mark the rows that lack a port which their socket's next row has."""
        lacks_port = (rows["newstate"] == State.SYN_RECV) & (rows["rport"] == 0)
        if self._choice.ports or self._choice.local_ports:
            lacks_port |= (rows["newstate"] == State.SYN_SENT) & (rows["lport"] == 0)
        return lacks_port & in_version(self._choice, rows)

    def _carry(self, rows: Rows, dtype: np.dtype[np.void]) -> None:
        """Keep the last row of each open socket for a later batch."""
        _, last = np.unique(rows["socket"][::-1], return_index=True)
        latest = rows.take(len(rows) - 1 - last)
        latest = latest.compress(~superseded(latest))
        # The next batch may repeat a socket's end, so an ended socket stays for one more batch. A minisock does not:
        # its socket's kernel address may belong to another socket already.
        ended = np.isin(latest["newstate"], _ENDED)
        repeatable = latest["carried"] + latest["minisock"] == 0
        kept = narrowed(latest, dtype)
        kept["carried"] = 1
        self._ended = [kept.compress(ended & repeatable)]
        self._open.add(kept.compress(~ended))
        self._forgotten += self._open.forget(_MOST_OPEN)


class _Open:
    """The last rows of open sockets. Those that a batch can concern are found without a look at the others."""

    def __init__(self) -> None:
        self._rows: Rows | None = None
        self._used: Mask = np.zeros(0, bool)
        self._buckets: Index = np.zeros((2, 0), np.intp)

    def held_back(self) -> int:
        """Return the number of rows that have not been shown."""
        return 0 if self._rows is None else int((self._rows["shown"][self._used] == 0).sum())

    def take(self, batch: Events) -> list[Rows]:
        """Remove and return the rows with the kernel address or the ports of an event, and some others."""
        if self._rows is None:
            return []
        concerned = np.zeros((2, _BUCKETS), bool)
        for bucket, known in zip(_buckets(batch), concerned, strict=True):
            known[bucket] = True
        by_address, by_ports = (known[bucket] for bucket, known in zip(self._buckets, concerned, strict=True))
        which = np.flatnonzero(self._used & (by_address | by_ports))
        self._used[which] = False
        return [self._rows.take(which)]

    def add(self, rows: Rows) -> None:
        """Write rows to places that are free. The other rows are not copied."""
        if self._rows is None:
            self._rows = rows[:0]
        free = np.flatnonzero(~self._used)
        if (missing := len(rows) - len(free)) > 0:
            more = max(missing, len(self._used))
            free = np.append(free, np.arange(len(self._used), len(self._used) + more))
            self._rows = concatenated([self._rows, np.zeros(more, rows.dtype)])
            self._used = np.append(self._used, np.zeros(more, bool))
            self._buckets = np.append(self._buckets, np.zeros((2, more), np.intp), axis=1)
        places = free[: len(rows)]
        self._rows[places] = rows
        self._used[places] = True
        self._buckets[:, places] = _buckets(rows)

    def forget(self, most: int) -> int:
        """Keep the latest of the rows, at most this number. Return how many have gone."""
        surplus = int(self._used.sum()) - most
        if surplus <= 0 or self._rows is None:
            return 0
        places = np.flatnonzero(self._used)
        oldest = np.argpartition(self._rows["time_ns"][places], surplus)[:surplus]
        self._used[places[oldest]] = False
        return surplus


def _buckets(rows: Rows) -> Index:
    """Return two hashes of each row, of shape (2, n): of the kernel address and of the ports."""
    address = rows["skaddr"] >> np.uint64(6)
    by_address = address ^ address >> np.uint64(16)
    by_ports = rows["lport"].astype(np.uint64) * np.uint64(40503) + rows["rport"]
    return np.asarray(np.stack([by_address, by_ports]) % np.uint64(_BUCKETS), np.intp)
