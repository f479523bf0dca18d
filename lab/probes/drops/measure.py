"""Freed packets as rows: pure functions over the events of the probe `drops`."""

import numpy as np

from lab.arrays import Events, Rows, extended


def with_size(events: Events) -> Rows:
    """Return the events with `size`: bytes of TCP data, 0 if the IP header does not say."""
    rows = extended(events, size="u4")
    rows["size"] = np.maximum(events["length"].astype(np.int64) - events["header"], 0)
    return rows
