"""A BPF ring buffer, memory-mapped and decoded with NumPy in bulk, without wake-ups.

Layout (`kernel/bpf/ringbuf.c`):

- one page with the consumer's position, which the reader writes;
- one page with the producer's position, read-only here;
- the data area, mapped twice in a row: a record that wraps is contiguous.

A record is an 8-byte header and the sample, padded to 8 bytes. The header's first word holds the length and the busy
and discard bits. All records of one ring of the lab have the same length.

Positions are read and written as plain words. The memory order of x86 is strong enough for that. On arm64 there would
have to be a barrier between header and data, and NumPy has none: many instructions lie between the two reads, which is
no guarantee.
"""

import mmap
import struct
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from lab.arrays import Events

if TYPE_CHECKING:
    import numpy as np

_BUSY = 1 << 31
_DISCARD = 1 << 30
_HEADER = 8


class Ring:
    """The consumer of one ring buffer map.

    - `map_fd`: the map's file descriptor, which the caller closes.
    - `size`: the data area in bytes: a power of two, at least a page.
    - `record`: returns the dtype of one record. It is called by `dtype` and `drain` only: a live tool attaches and
      skips before NumPy is imported.
    """

    def __init__(self, map_fd: int, size: int, record: Callable[[], "np.dtype[np.void]"]) -> None:
        page = mmap.PAGESIZE
        self._record = record
        self._size = size
        consumer_page = mmap.mmap(map_fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        producer_pages = mmap.mmap(map_fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._consumer = memoryview(consumer_page).cast("Q")
        self._producer = memoryview(producer_pages)[:page].cast("Q")
        self._data = memoryview(producer_pages)[page:]

    @cached_property
    def dtype(self) -> "np.dtype[np.void]":
        """The dtype of one record."""
        return self._record()

    def skip(self) -> None:
        """Discard every finished record up to the first busy one, without NumPy."""
        position, produced = self._consumer[0], self._producer[0]
        while position < produced:
            (header,) = struct.unpack_from("=I", self._data, position & (self._size - 1))
            if header & _BUSY:
                break
            position += _stride(header & ~_DISCARD)
        self._consumer[0] = position

    def drain(self) -> Events:
        """Take the finished records up to the first busy one and return a copy, oldest first: an array of `dtype`.

        Discarded records are left out. Raises `ValueError` when a record has another length than `dtype`.
        """
        import numpy as np

        consumer, length = self._consumer[0], self.dtype.itemsize
        start, stride = consumer & (self._size - 1), _stride(length)
        area = np.frombuffer(self._data, np.uint8)[start : start + self._producer[0] - consumer].reshape(-1, stride)
        headers = area[:, :4].copy().view(np.uint32)[:, 0]
        busy = np.flatnonzero(headers & _BUSY)
        finished = int(busy[0]) if busy.size else len(headers)
        headers = headers[:finished]
        if (headers & ~np.uint32(_DISCARD) != length).any():
            raise ValueError(f"a record of the ring is not {length} bytes long")
        samples = area[:finished, _HEADER : _HEADER + length]
        # A copy: the kernel writes to this memory as soon as the consumer's position is past it.
        events = samples.copy().view(self.dtype)[:, 0]
        if (headers & _DISCARD).any():
            events = events[headers & _DISCARD == 0]
        self._consumer[0] = consumer + finished * stride
        return events


def _stride(length: int) -> int:
    """Return the distance in bytes from one record to the next."""
    return _HEADER + -(-length // 8) * 8
