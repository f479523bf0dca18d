"""The batch-by-batch version of lab/probes/states/measure.py: from batches of state changes to rows to print.

What lives here: the rows kept for open sockets, and the filters. What does not: the measurement itself.
"""

import numpy as np

from lab.arrays import Events, Mask, Rows, extended
from lab.choice import Choice
from lab.live.filters import in_version, wanted
from lab.probes.states.measure import superseded, transitions
from lab.tcp import State

_ENDED = (State.CLOSE, State.TIME_WAIT)
_MOST_OPEN = 1_000_000


class Tracker:
    """Turn batches of events into rows to print; keep the last row of each open socket for the next batch.

    The remote port is unknown at SYN_RECV, the local port at SYN_SENT. A SYN_RECV row is held back until the socket's
    next row, which has the port; so is a SYN_SENT row if local ports are chosen.
    """

    def __init__(self, choice: Choice) -> None:
        self._choice = choice
        self._open: Rows | None = None
        self._forgotten = 0
        self._gaps = 0

    def rows(self, batch: Events) -> Rows:
        """Return the rows that can be printed after this batch, in order of time."""
        fresh = extended(batch, shown="u1", carried="u1")
        rows = transitions(fresh if self._open is None else np.concatenate([self._open, fresh]))
        self._gaps += int(rows["gap"].sum())
        held_back = self._held_back(rows)
        due = (rows["shown"] == 0) & ~held_back
        shown = rows[due & wanted(self._choice, rows)]
        rows["shown"] |= ~held_back
        self._carry(rows, fresh.dtype)
        return shown

    def end(self) -> str:
        """Return the closing note: rows that are missing, and sockets not printed or forgotten; "" if there are none."""
        notes = []
        if self._gaps:
            notes.append(
                f"the output is not complete: at {self._gaps} rows, at least one change of state before is missing, for "
                "which the kernel did not run the probe"
            )
        if self._open is not None and (held_back := int((self._open["shown"] == 0).sum())):
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
        """Keep the last row of each open socket for the next batch."""
        _, last = np.unique(rows["socket"][::-1], return_index=True)
        latest = rows[len(rows) - 1 - last]
        latest = latest[~superseded(latest)]
        # The next batch may repeat a socket's end, so an ended socket stays for one more batch. A minisock does not:
        # its socket's kernel address may belong to another socket already.
        latest = latest[~np.isin(latest["newstate"], _ENDED) | (latest["carried"] + latest["minisock"] == 0)]
        if len(latest) > _MOST_OPEN:
            self._forgotten += len(latest) - _MOST_OPEN
            latest = np.sort(latest, order="time_ns")[-_MOST_OPEN:]
        self._open = np.zeros(len(latest), dtype)
        for name in dtype.names or ():
            self._open[name] = latest[name]
        self._open["carried"] = 1
