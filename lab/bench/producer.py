"""Events at a rate that no traffic reaches: a probe's own program, run by the kernel on a frame that nobody has sent.

BPF_PROG_TEST_RUN repeats it inside the kernel: each run writes the record that a SYN at an interface would.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lab.bench.forked import forked
from lab.ebpf.program import Program
from lab.linux.bpf import prog_test_run
from lab.traffic.crafted.unusual_frames import unusual
from lab.units import SECOND

_BATCHES = 500  # a second: as many as a timer would wake
_FLAT_OUT = 20_000


def syn() -> bytes:
    """Return a frame with a SYN."""
    return next(frame.data for frame in unusual() if frame.name == "SYN over IPv4")


def produce(program: Program, number: int) -> None:
    """Write so many events at once."""
    prog_test_run(program.fds[-1], syn(), repeat=number)


@contextmanager
def producing(program: Program, seconds: float, per_second: int | None) -> Iterator[None]:
    """Write events on the last processor around a block, at a rate or flat out; ends with the block, which waits for it."""
    process = forked(_at_rate, program.fds[-1], seconds, per_second)
    try:
        yield
        process.join()
    finally:
        process.kill()
        process.join()


def _at_rate(fd: int, seconds: float, per_second: int | None) -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    frame, begin_ns, done = syn(), time.monotonic_ns(), 0
    while (passed_ns := time.monotonic_ns() - begin_ns) < seconds * SECOND:
        due = _FLAT_OUT if per_second is None else passed_ns * per_second // SECOND - done
        if due > 0:
            prog_test_run(fd, frame, repeat=due)
            done += due
        if per_second is not None:
            time.sleep(1 / _BATCHES)
