"""Events at rates above those of real traffic, by running a probe's program on a frame that is not sent.

BPF_PROG_TEST_RUN repeats the program inside the kernel. Each program run writes the record of a SYN at an interface.
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

_BATCHES = 500  # per second
_FLAT_OUT = 20_000  # events per batch without a rate


def syn() -> bytes:
    """Return a frame with a SYN."""
    return next(frame.data for frame in unusual() if frame.name == "SYN over IPv4")


def produce(program: Program, number: int) -> None:
    """Write `number` events in one call."""
    prog_test_run(program.fds[-1], syn(), repeat=number)


@contextmanager
def producing(program: Program, seconds: float, per_second: int | None) -> Iterator[None]:
    """Write events on the last processor for `seconds`, during a block. The exit of the block waits for the end.

    `per_second` is the rate; None writes as fast as possible.
    """
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
