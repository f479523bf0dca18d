"""How often each segment has been sent again: pure functions over the events of the probe `retransmits`."""

import numpy as np

from lab.arrays import Events, Rows, extended
from lab.packet import FIN, SYN
from lab.tcp import State

_SEGMENT = ("netns", "laddr", "lport", "raddr", "rport", "seq")
MOST_KNOWN = 100_000
"""Segments that are remembered."""


class Counter:
    """Counts, over all batches, how often the segment at each sequence number has been sent again.

    The kernel can join or cut segments before it sends them again: a segment is known by its first sequence number.
    """

    def __init__(self) -> None:
        self._times: dict[bytes, int] = {}

    def rows(self, events: Events) -> Rows:
        """Return the events, in the order given, with the fields `times` and `size`.

        `times`: 1 for the first time. An attempt that failed does not count, and has that of the attempt before.
        `size`: bytes of data.
        """
        rows = extended(events, times="u4", size="u4")
        has_flag = [(events["flags"] & flag) > 0 for flag in (SYN, FIN)]
        rows["size"] = events["length"] - has_flag[0] - has_flag[1]
        keys = np.zeros(len(events), [(name, events.dtype[name]) for name in _SEGMENT])
        for name in _SEGMENT:
            keys[name] = events[name]
        for row, key, failed in zip(rows, keys, events["error"] > 0, strict=True):
            known = key.tobytes()
            times = self._times.pop(known, 0) + (not failed)
            self._times[known] = row["times"] = times  # the last ones are at the end
            if len(self._times) > MOST_KNOWN:
                del self._times[next(iter(self._times))]
        return rows


def sent(rows: Rows) -> Rows:
    """Return the rows of segments that were sent; the others are attempts that failed."""
    return rows[rows["error"] == 0]


def kind_of(row: np.void) -> str:
    """Return what was sent: `SYN`, `SYN-ACK`, `FIN`, `data`, or `data FIN`."""
    if row["flags"] & SYN:
        kind = "SYN-ACK" if row["state"] in (State.NEW_SYN_RECV, State.SYN_RECV) else "SYN"
    else:
        kind = "FIN" if row["flags"] & FIN else ""
    return f"data {kind}".rstrip() if row["size"] else kind
