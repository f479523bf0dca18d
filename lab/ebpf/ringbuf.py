"""BPF ring buffers, memory-mapped and decoded with NumPy in bulk, without wake-ups.

Layout of each (`kernel/bpf/ringbuf.c`):

- one page with the consumer's position, which the reader writes;
- one page with the producer's position, read-only here;
- the data area, mapped twice in a row: a record that wraps is contiguous.

A record is an 8-byte header and the sample, padded to 8 bytes. The header's first word holds the length and the busy
and discard bits. All records of one program have the same length.

Positions are read and written as plain words. The memory order of x86 is strong enough for that. On arm64 there would
have to be a barrier between header and data, and NumPy has none: many instructions lie between the two reads, which is
no guarantee.
"""

import mmap
import struct
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from lab.arrays import Events

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_BUSY = 1 << 31
_DISCARD = 1 << 30
_HEADER = 8


class Rings:
    """The consumer of a program's ring buffers.

    - `map_fds`: the maps' file descriptors, which the caller closes.
    - `size`: the data area of each in bytes: a power of two, at least a page.
    - `record`: returns the dtype of one record. It is called by `dtype` and `drain` only: a live tool attaches and
      skips before NumPy is imported.
    """

    def __init__(self, map_fds: Sequence[int], size: int, record: Callable[[], "np.dtype[np.void]"]) -> None:
        self._record = record
        self._rings = [_Ring(fd, size) for fd in map_fds]

    @cached_property
    def dtype(self) -> "np.dtype[np.void]":
        """The dtype of one record."""
        return self._record()

    def skip(self) -> None:
        """Discard every finished record up to the first busy one of each ring, without NumPy."""
        for ring in self._rings:
            ring.skip()

    def drain(self) -> Events:
        """Take the finished records up to the first busy one of each ring and return a copy: an array of `dtype`.

        The records of one ring are in its order, those of the next ring follow. Discarded records are left out. Raises
        `ValueError` when a record has another length than `dtype`.
        """
        import numpy as np

        length = self.dtype.itemsize
        # A copy: the kernel writes to this memory as soon as the consumer's position is past it.
        samples = np.concatenate([ring.finished(length) for ring in self._rings])
        for ring in self._rings:
            ring.release()
        return samples.view(self.dtype)[:, 0]


class _Ring:
    """One ring buffer."""

    def __init__(self, map_fd: int, size: int) -> None:
        page = mmap.PAGESIZE
        self._size = size
        consumer_page = mmap.mmap(map_fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        producer_pages = mmap.mmap(map_fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._consumer = memoryview(consumer_page).cast("Q")
        self._producer = memoryview(producer_pages)[:page].cast("Q")
        self._data = memoryview(producer_pages)[page:]
        self._next = self._consumer[0]

    def skip(self) -> None:
        """Discard every finished record up to the first busy one."""
        position, produced = self._consumer[0], self._producer[0]
        while position < produced:
            (header,) = struct.unpack_from("=I", self._data, position & (self._size - 1))
            if header & _BUSY:
                break
            position += _stride(header & ~_DISCARD)
        self._consumer[0] = self._next = position

    def finished(self, length: int) -> "npt.NDArray[np.uint8]":
        """Return the finished samples, which have this length, in place: of shape (n, length). `release` consumes them."""
        import numpy as np

        consumer, produced = self._consumer[0], self._producer[0]
        if consumer == produced:
            return np.empty((0, length), np.uint8)
        start, stride = consumer & (self._size - 1), _stride(length)
        area = np.frombuffer(self._data, np.uint8)[start : start + produced - consumer].reshape(-1, stride)
        headers = area[:, :4].copy().view(np.uint32)[:, 0]
        busy = np.flatnonzero(headers & _BUSY)
        finished = int(busy[0]) if busy.size else len(headers)
        headers = headers[:finished]
        if (headers & ~np.uint32(_DISCARD) != length).any():
            raise ValueError(f"a record of the ring is not {length} bytes long")
        self._next = consumer + finished * stride
        samples, discarded = area[:finished, _HEADER : _HEADER + length], headers & _DISCARD > 0
        return samples[~discarded] if discarded.any() else samples

    def release(self) -> None:
        """Let the kernel write over the samples that `finished` has returned."""
        self._consumer[0] = self._next


def _stride(length: int) -> int:
    """Return the distance in bytes from one record to the next."""
    return _HEADER + -(-length // 8) * 8
