"""Where a recording's events are kept as they come, and put in order: nothing is there twice, however many there are."""

import mmap

import numpy as np

from lab.arrays import Events

_AT_FIRST = 1 << 20  # bytes
_BLOCK = 1 << 16  # events that are sorted at once
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # a shared one cannot grow


class Store:
    """Events of one dtype, one behind the other. What has not been written to takes no memory, so there is room for twice as many."""

    def __init__(self, dtype: "np.dtype[np.void]") -> None:
        self._dtype = dtype
        self._memory = mmap.mmap(-1, _AT_FIRST, flags=_PRIVATE)
        self._used = 0

    def add(self, events: Events) -> None:
        """Keep some more, in the order in which they came."""
        end = self._used + events.nbytes
        if end > len(self._memory):
            self._memory.resize(2 * end)  # the kernel moves pages, not bytes
        self._memory[self._used : end] = events.data
        self._used = end

    def in_order(self) -> Events:
        """Return all, sorted by `time_ns`, those of one nanosecond as they came. Nothing can be added after this."""
        events = np.frombuffer(self._memory, self._dtype, self._used // self._dtype.itemsize)
        put_in_order(events)
        return events


def put_in_order(events: Events) -> None:
    """Sort by `time_ns` where they are, stably.

    CPUs reserve their records a few nanoseconds after they have read the clock: order in the ring is not order in time, but
    nearly. A block at a time is sorted, together with those before it that are later than its first: few, as a rule.
    """
    times_ns = events["time_ns"]
    for begin in range(0, len(events), _BLOCK):
        end = begin + _BLOCK
        first = int(np.searchsorted(times_ns[:begin], times_ns[begin:end].min(), side="right"))
        order = np.argsort(times_ns[first:end], kind="stable")
        events[first:end] = events[first:end][order]
