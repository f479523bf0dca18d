"""A process that takes a processor for itself, for a time that is known."""

import mmap
import multiprocessing
import os
import resource
import struct
import time
from contextlib import contextmanager

from lab.units import MS

LIMIT_S = 20
LONGEST_NS = 300 * MS


class Hog:
    """A process that has a processor to itself when it wants to: of the class SCHED_FIFO, on the last processor.

    The kernel can take it away: others get 5 % of each second (sched_rt_runtime_us), and its own threads come first. Then the hog's
    time is over.
    """

    def __init__(self, conn, shared):
        self.cpu = max(os.sched_getaffinity(0))
        self._pipe, self._shared = conn, shared

    @contextmanager
    def spinning(self):
        """Occupy the processor for the block, but no longer than 0.3 s."""
        self._shared[:16] = bytes(16)
        self._pipe.send("spin")
        deadline = time.monotonic() + LIMIT_S
        while not self._read(0):
            assert time.monotonic() < deadline, "the hog does not get its processor"
        try:
            yield
        finally:
            self.spin_until(1)

    def spin_until(self, time_ns):
        """Go on until a time at least, or until its time is over; returns when it last had the processor to itself."""
        if not struct.unpack_from("=q", self._shared, 8)[0]:
            struct.pack_into("=q", self._shared, 8, time_ns)
            self._over_ns = self._pipe.recv()
        return self._over_ns

    def over(self):
        """Tell whether its time is over, though it was not told to end."""
        return self._pipe.poll()

    def _read(self, offset):
        return struct.unpack_from("=q", self._shared, offset)[0]


def _hog(conn, shared, cpu):
    os.sched_setaffinity(0, {cpu})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    while conn.recv():
        before = _taken_away()
        began_ns = now_ns = time.monotonic_ns()
        struct.pack_into("=q", shared, 0, began_ns)
        while now_ns < began_ns + LONGEST_NS:
            until_ns = struct.unpack_from("=q", shared, 8)[0]
            if until_ns and now_ns >= until_ns:
                break
            still_ns = time.monotonic_ns()
            if _taken_away() != before:
                break
            now_ns = still_ns
        conn.send(now_ns)


def _taken_away():
    """Count how often this process had to leave its processor to another."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


@contextmanager
def hog():
    """Have a hog, and this thread on another processor."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    shared = mmap.mmap(-1, mmap.PAGESIZE)
    before = os.sched_getaffinity(0)
    it = Hog(ours, shared)
    process = fork.Process(target=_hog, args=(theirs, shared, it.cpu), daemon=True)
    process.start()
    os.sched_setaffinity(0, before - {it.cpu})
    try:
        yield it
    finally:
        os.sched_setaffinity(0, before)
        ours.send("")
        process.join()
        process.close()
        shared.close()
