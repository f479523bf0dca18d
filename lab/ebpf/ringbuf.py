"""Events out of the kernel in bulk: a BPF ring buffer, mapped and decoded with NumPy, without wake-ups.

Layout: `kernel/bpf/ringbuf.c`. One page with the consumer's position (writable), one with the producer's, then the data
area mapped twice in a row, so that a record that wraps is still contiguous. A record is an 8-byte header, whose first
word holds length, busy and discard bits, and the sample, padded to 8 bytes. All records of a lab ring have one size.

Positions are read and written as plain words: on x86 that is ordered enough. On arm64 NumPy offers no barrier; the
header is read before the data by many instructions, which is not a guarantee.
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
    """The consumer's end of one ring buffer map.

    `map_fd` is the map's file descriptor (it stays the caller's), `size` the data area in bytes (a power of two of
    pages), `record` gives the dtype of one record. A ring can be had, and told to skip, without NumPy.
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
        """One record's."""
        return self._record()

    def skip(self) -> None:
        """Pass over every finished record, as `drain` would take it."""
        position, produced = self._consumer[0], self._producer[0]
        while position < produced:
            (header,) = struct.unpack_from("=I", self._data, position & (self._size - 1))
            if header & _BUSY:
                break
            position += _stride(header & ~_DISCARD)
        self._consumer[0] = position

    def drain(self) -> Events:
        """Take every finished record, oldest first: a structured array of `dtype`, a copy.

        Stops at the first record that its writer has not yet submitted. Raises `ValueError` when a record has another
        size than `dtype` says.
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
        # Nothing may point into the ring when it is given back.
        events = samples.copy().view(self.dtype)[:, 0]
        if (headers & _DISCARD).any():
            events = events[headers & _DISCARD == 0]
        self._consumer[0] = consumer + finished * stride
        return events


def _stride(length: int) -> int:
    """Bytes from one record to the next."""
    return _HEADER + -(-length // 8) * 8
