"""The ring's consumer returns each finished record once, as written, and nothing else."""

import mmap
import os
import struct
from types import SimpleNamespace

import numpy as np
import pytest

from lab.ebpf.ringbuf import Rings

PAGE = mmap.PAGESIZE
RECORD = np.dtype([("number", "u8"), ("half", "u4")])  # 12 bytes, padded to 16
STRIDE = 24  # with the header; does not divide a page, so records wrap
BUSY, DISCARD = 1 << 31, 1 << 30


class FakeRing:
    """The kernel's side of a ring with one page of data, in a file: two pages with positions, and the data twice."""

    def __init__(self, position: int = 0) -> None:
        self.fd = os.memfd_create("ring")
        os.truncate(self.fd, 4 * PAGE)
        self._write(0, struct.pack("=Q", position))
        self._produced = position
        self._publish(position)

    def _write(self, offset: int, data: bytes) -> None:
        os.pwrite(self.fd, data, offset)

    def _publish(self, position: int) -> None:
        self._produced = position
        self._write(PAGE, struct.pack("=Q", position))

    def put(self, position: int, data: bytes) -> None:
        """Write at a position of the stream, into both halves: the kernel maps the data twice."""
        for index, byte in enumerate(data):
            for half in (0, PAGE):
                self._write(2 * PAGE + half + (position + index) % PAGE, bytes([byte]))

    def reserve(self, number: int, flags: int = 0, size: int = RECORD.itemsize) -> int:
        """Write one record and return its position."""
        position = self._produced
        sample = np.array((number, 7), RECORD).tobytes().ljust(STRIDE - 8, b"\xff")
        self.put(position, struct.pack("=II", size | flags, 0) + sample)
        self._publish(position + STRIDE)
        return position

    def submit(self, position: int) -> None:
        """Clear the busy bit of a record."""
        self.put(position, struct.pack("=I", RECORD.itemsize))

    @property
    def consumed(self) -> int:
        """The consumer's position."""
        return struct.unpack("=Q", os.pread(self.fd, 8, 0))[0]


@pytest.fixture
def fake():
    """Return `at(position)`, which creates a ring whose stream starts at that position, and its consumer."""
    rings = []

    def at(position: int = 0) -> SimpleNamespace:
        kernel = FakeRing(position)
        rings.append(kernel)
        return SimpleNamespace(kernel=kernel, ring=Rings([kernel.fd], PAGE, lambda: RECORD))

    yield at
    for kernel in rings:
        os.close(kernel.fd)


def numbers(ring: Rings) -> list[int]:
    return ring.drain()["number"].tolist()


def test_an_empty_ring_gives_no_records(fake):
    """The empty array has the dtype of a record."""
    events = fake().ring.drain()
    assert len(events) == 0
    assert events.dtype == RECORD


def test_records_come_in_order_whole_and_once(fake):
    """Each record is returned once with all its members, oldest first."""
    it = fake()
    for number in range(3):
        it.kernel.reserve(number)
    assert it.ring.drain().tolist() == [(0, 7), (1, 7), (2, 7)]
    assert numbers(it.ring) == []


def test_drained_space_is_free_for_the_kernel(fake):
    """The consumer's position is that of the next record."""
    it = fake()
    it.kernel.reserve(1)
    it.kernel.reserve(2)
    it.ring.drain()
    assert it.kernel.consumed == 2 * STRIDE


@pytest.mark.parametrize("left", [8, 16, 24])
def test_a_record_that_wraps_is_complete(fake, left):
    """A record that crosses the end of the data area continues at its start."""
    it = fake(5 * PAGE - left)
    it.kernel.reserve(1 << 60 | 1)
    it.kernel.reserve(1 << 60 | 2)
    assert numbers(it.ring) == [1 << 60 | 1, 1 << 60 | 2]


def test_a_full_ring_is_drained_at_once(fake):
    """One call returns as many records as fit, wherever the oldest one is."""
    it, fit = fake(PAGE + 120), PAGE // STRIDE
    for number in range(fit):
        it.kernel.reserve(number)
    assert numbers(it.ring) == list(range(fit))


def test_many_rounds_lose_and_repeat_nothing(fake):
    """The stream passes the end of the data area many times."""
    it, seen = fake(), []
    for number in range(600):
        it.kernel.reserve(number)
        if number % 7 == 0:
            seen += numbers(it.ring)
    assert seen + numbers(it.ring) == list(range(600))


def test_a_busy_record_is_waited_for(fake):
    """An unfinished record and all later ones stay in the ring, and are returned later in order."""
    it = fake()
    it.kernel.reserve(1)
    busy = it.kernel.reserve(2, BUSY)
    it.kernel.reserve(3)
    assert numbers(it.ring) == [1]
    assert it.kernel.consumed == STRIDE
    it.kernel.submit(busy)
    assert numbers(it.ring) == [2, 3]


def test_a_discarded_record_is_skipped(fake):
    """A discarded record is not returned, and its space is freed."""
    it = fake()
    for number, flags in enumerate((DISCARD, 0, DISCARD, 0)):
        it.kernel.reserve(number, flags)
    assert numbers(it.ring) == [1, 3]
    assert it.kernel.consumed == 4 * STRIDE


@pytest.mark.parametrize("size", [8, 16, 4096])
def test_a_record_of_another_size_is_an_error(fake, size):
    """Records with another length than the dtype stay in the ring."""
    it = fake()
    it.kernel.reserve(1, size=size)
    with pytest.raises(ValueError, match="not 12 bytes"):
        it.ring.drain()
    assert it.kernel.consumed == 0


@pytest.mark.parametrize("count", [1, 2, 5])
def test_drained_records_are_a_copy(fake, count):
    """Events do not change when the kernel overwrites the ring."""
    it = fake()
    for number in range(count):
        it.kernel.reserve(number)
    events = it.ring.drain()
    it.kernel.put(0, b"\xee" * PAGE)
    assert events["number"].tolist() == list(range(count))


def test_skip_discards_the_finished_records(fake):
    """`skip` stops at the first busy record, and passes over discarded ones. Later records are returned."""
    it = fake(PAGE - STRIDE)  # the second record wraps
    it.kernel.reserve(1)
    it.kernel.reserve(2, DISCARD)
    it.kernel.reserve(3)
    busy = it.kernel.reserve(4, BUSY)
    it.kernel.reserve(5)
    it.ring.skip()
    assert it.kernel.consumed == busy
    it.kernel.submit(busy)
    assert numbers(it.ring) == [4, 5]
    it.ring.skip()
    assert numbers(it.ring) == []


def test_rings_are_read_one_after_the_other():
    """The records of each come in its order; a busy one holds back only those of its own ring."""
    kernels = [FakeRing() for _ in range(3)]
    rings = Rings([it.fd for it in kernels], PAGE, lambda: RECORD)
    first, _, last = kernels
    first.reserve(1)
    busy = first.reserve(2, BUSY)
    last.reserve(3)
    last.reserve(4, DISCARD)
    last.reserve(5)
    assert numbers(rings) == [1, 3, 5]
    first.submit(busy)
    assert numbers(rings) == [2]
    assert [it.consumed for it in kernels] == [2 * STRIDE, 0, 3 * STRIDE]
    first.reserve(6)
    last.reserve(7)
    rings.skip()
    assert numbers(rings) == []
    for it in kernels:
        os.close(it.fd)
