"""Freed packets as rows: pure functions over the events of the probe `drops`."""

import numpy as np

from lab.arrays import Events, Rows


def with_size(events: Events) -> Rows:
    """Return the events with `size`: bytes of TCP data, 0 if the IP header does not say."""
    rows = np.zeros(len(events), [(name, events.dtype[name]) for name in events.dtype.names or ()] + [("size", "u4")])
    for name in events.dtype.names or ():
        rows[name] = events[name]
    rows["size"] = np.maximum(events["length"].astype(np.int64) - events["header"], 0)
    return rows
