"""Changes of TCP sockets' states as they come, from batches of events to rows to show."""

import numpy as np

from lab.arrays import Events, Mask, Rows
from lab.probes.states.measure import superseded, transitions
from lab.tcp import State

_ENDED = (State.CLOSE, State.TIME_WAIT)
_MOST_OPEN = 1_000_000


class Tracker:
    """Turns batches of events into rows to show, carrying what open sockets were last seen doing.

    A row whose port is not known yet (the local one at SYN_SENT, the remote one at SYN_RECV) waits for the socket's next
    row when a filter asks for that port, and is judged by it.
    """

    def __init__(self, lports: list[int] | None, rports: list[int] | None, version: int | None) -> None:
        self._lports, self._rports, self._version = lports, rports, version
        self._open: Rows | None = None
        self._forgotten = 0

    def rows(self, batch: Events) -> Rows:
        """Return the rows that can be shown now, in order of time."""
        dtype = np.dtype(
            [*((name, batch.dtype[name]) for name in batch.dtype.names or ()), ("shown", "u1"), ("carried", "u1")]
        )
        fresh = np.zeros(len(batch), dtype)
        for name in batch.dtype.names or ():
            fresh[name] = batch[name]
        rows = transitions(fresh if self._open is None else np.concatenate([self._open, fresh]))
        waits = self._waits(rows)
        showing = (rows["shown"] == 0) & ~waits
        shown = rows[showing & self._wanted(rows)]
        rows["shown"] |= ~waits
        self._carry(rows, dtype)
        return shown

    def end(self) -> str:
        """Return what remains to be said when the tool ends."""
        notes = []
        if self._open is not None and (waiting := int((self._open["shown"] == 0).sum())):
            notes.append(f"{waiting} connections had no port yet and are not shown")
        if self._forgotten:
            notes.append(f"more than {_MOST_OPEN} sockets were open: {self._forgotten} were forgotten")
        return "; ".join(notes)

    def _waits(self, rows: Rows) -> Mask:
        waits = (rows["newstate"] == State.SYN_RECV) & (rows["rport"] == 0)
        if self._lports:
            waits |= (rows["newstate"] == State.SYN_SENT) & (rows["lport"] == 0)
        return waits & self._in_scope(rows)

    def _wanted(self, rows: Rows) -> Mask:
        wanted = self._in_scope(rows)
        if self._lports:
            wanted &= np.isin(rows["lport"], self._lports)
        if self._rports:
            wanted &= np.isin(rows["rport"], self._rports)
        return wanted

    def _in_scope(self, rows: Rows) -> Mask:
        """Tell which rows are of the IP version asked for, which every row knows."""
        if self._version:
            return _is_ipv4(rows) == (self._version == 4)
        return np.ones(len(rows), bool)

    def _carry(self, rows: Rows, dtype: np.dtype[np.void]) -> None:
        _, last = np.unique(rows["socket"][::-1], return_index=True)
        latest = rows[len(rows) - 1 - last]
        latest = latest[~superseded(latest)]
        # What has ended stays for one more batch, which may repeat its end; a minisock's address may be another's by now.
        latest = latest[~np.isin(latest["newstate"], _ENDED) | (latest["carried"] + latest["minisock"] == 0)]
        if len(latest) > _MOST_OPEN:
            self._forgotten += len(latest) - _MOST_OPEN
            latest = np.sort(latest, order="time_ns")[-_MOST_OPEN:]
        self._open = np.zeros(len(latest), dtype)
        for name in dtype.names or ():
            self._open[name] = latest[name]
        self._open["carried"] = 1


def _is_ipv4(rows: Rows) -> Mask:
    mapped = np.array([0] * 10 + [255] * 2, np.uint8)
    return np.asarray((rows["laddr"][:, :12] == mapped).all(axis=1) | (rows["raddr"][:, :12] == mapped).all(axis=1))
