"""Events out of the kernel in bulk: a BPF ring buffer, mapped and decoded with NumPy, without wake-ups.

Layout: `kernel/bpf/ringbuf.c`. One page with the consumer's position (writable), one with the producer's, then the data
area mapped twice in a row, so that a record that wraps is still contiguous. A record is an 8-byte header, whose first
word holds length, busy and discard bits, and the sample, padded to 8 bytes. All records of a lab ring have one size.

Positions are read and written as plain words: on x86 that is ordered enough. On arm64 NumPy offers no barrier; the
header is read before the data by many instructions, which is not a guarantee.
"""

import mmap

import numpy as np
import numpy.typing as npt

_BUSY = np.uint32(1 << 31)
_DISCARD = np.uint32(1 << 30)
_HEADER = 8

Events = npt.NDArray[np.void]


class Ring:
    """The consumer's end of one ring buffer map.

    `map_fd` is the map's file descriptor (it stays the caller's), `size` the data area in bytes (a power of two of
    pages), `dtype` that of one record. `complete` tells whether the last drain met no record whose writer was still at work.
    """

    def __init__(self, map_fd: int, size: int, dtype: np.dtype[np.void]) -> None:
        page = mmap.PAGESIZE
        self.dtype = dtype
        self.complete = True
        self._size = size
        self._stride = _HEADER + -(-dtype.itemsize // 8) * 8
        self._consumer_page = mmap.mmap(map_fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer_pages = mmap.mmap(map_fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._consumer = np.frombuffer(self._consumer_page, np.uint64, 1)
        self._producer = np.frombuffer(self._producer_pages, np.uint64, 1)
        self._data = np.frombuffer(self._producer_pages, np.uint8, offset=page)

    def drain(self) -> Events:
        """Take every finished record, oldest first: a structured array of `dtype`, a copy.

        Stops at the first record that its writer has not yet submitted. Raises `ValueError` when a record has another
        size than `dtype` says.
        """
        consumer = int(self._consumer[0])
        start = consumer & (self._size - 1)
        area = self._data[start : start + int(self._producer[0]) - consumer].reshape(-1, self._stride)
        headers = area[:, :4].copy().view(np.uint32)[:, 0]
        busy = np.flatnonzero(headers & _BUSY)
        finished = int(busy[0]) if busy.size else len(headers)
        self.complete = finished == len(headers)
        headers = headers[:finished]
        if (headers & ~_DISCARD != self.dtype.itemsize).any():
            raise ValueError(f"a record of the ring is not {self.dtype.itemsize} bytes long")
        samples = area[:finished, _HEADER : _HEADER + self.dtype.itemsize]
        # Nothing may point into the ring when it is given back.
        events = samples.copy().view(self.dtype)[:, 0]
        if (headers & _DISCARD).any():
            events = events[headers & _DISCARD == 0]
        self._consumer[0] = consumer + finished * self._stride
        return events
