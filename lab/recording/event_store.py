"""Memory for the events of a recording: one copy of each event, sorted in place at the end."""

import mmap

import numpy as np

from lab.arrays import Events

_INITIAL = 1 << 20  # bytes
_BLOCK = 1 << 16  # events in one sort
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # a shared mapping cannot grow


class Store:
    """A growing array of events of one dtype.

    Each resize reserves twice the necessary size: pages that were never written take no memory.
    """

    def __init__(self, dtype: "np.dtype[np.void]") -> None:
        self._dtype = dtype
        self._memory = mmap.mmap(-1, _INITIAL, flags=_PRIVATE)
        self._used = 0

    def add(self, events: Events) -> None:
        """Append events."""
        end = self._used + events.nbytes
        if end > len(self._memory):
            self._memory.resize(2 * end)  # mremap(2) moves pages without copying them
        self._memory[self._used : end] = events.data
        self._used = end

    def in_order(self) -> Events:
        """Return all events, sorted by `time_ns`; equal times keep their order. Do not add events after this."""
        events = np.frombuffer(self._memory, self._dtype, self._used // self._dtype.itemsize)
        put_in_order(events)
        return events


def put_in_order(events: Events) -> None:
    """Sort events by `time_ns`, in place and stably.

    The order in the ring is almost the order in time: a program reserves its record some nanoseconds after it has read
    the clock. So each block is sorted together with the earlier events that are later than the block's first time,
    usually few.
    """
    times_ns = events["time_ns"]
    for begin in range(0, len(events), _BLOCK):
        end = begin + _BLOCK
        first = int(np.searchsorted(times_ns[:begin], times_ns[begin:end].min(), side="right"))
        order = np.argsort(times_ns[first:end], kind="stable")
        events[first:end] = events[first:end][order]
