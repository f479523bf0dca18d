"""A process that occupies one processor for a known time."""

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
    """A process of the class SCHED_FIFO on the last processor, which it occupies on request.

    The kernel can preempt it: other tasks get 5 % of each second (sched_rt_runtime_us), and threads of the kernel come
    first. A preemption ends the hog's turn.
    """

    def __init__(self, conn, shared):
        self.cpu = max(os.sched_getaffinity(0))
        self._pipe, self._shared = conn, shared

    @contextmanager
    def spinning(self):
        """Occupy the processor while the block runs, for at most 0.3 s."""
        self._shared[:16] = bytes(16)
        self._pipe.send("spin")
        deadline = time.monotonic() + LIMIT_S
        while not self._read(0):
            assert time.monotonic() < deadline, "the hog did not get its processor"
        try:
            yield
        finally:
            self.spin_until(1)

    def spin_until(self, time_ns):
        """Occupy the processor until a time (ns) or a preemption; return the last time at which the hog had it."""
        if not struct.unpack_from("=q", self._shared, 8)[0]:
            struct.pack_into("=q", self._shared, 8, time_ns)
            self._over_ns = self._pipe.recv()
        return self._over_ns

    def over(self):
        """Return whether the turn ended without a request: by a preemption or after `LONGEST_NS`."""
        return self._pipe.poll()

    def _read(self, offset):
        return struct.unpack_from("=q", self._shared, offset)[0]


def _hog(conn, shared, cpu):
    os.sched_setaffinity(0, {cpu})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    while conn.recv():
        before = _preemptions()
        began_ns = now_ns = time.monotonic_ns()
        struct.pack_into("=q", shared, 0, began_ns)
        while now_ns < began_ns + LONGEST_NS:
            until_ns = struct.unpack_from("=q", shared, 8)[0]
            if until_ns and now_ns >= until_ns:
                break
            still_ns = time.monotonic_ns()
            if _preemptions() != before:
                break
            now_ns = still_ns
        conn.send(now_ns)


def _preemptions():
    """Return how often the kernel has preempted this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


@contextmanager
def hog():
    """Start a `Hog`, and move this thread to the other processors."""
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
