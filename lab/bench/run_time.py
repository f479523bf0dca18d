"""What programs cost the kernel, by its own count: nanoseconds that a process's programs have run, and what counting itself costs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from lab.linux import bpf
from lab.linux.bpf import RETURN_ZERO, ProgType, Runs, owned


class Cost(NamedTuple):
    """What ran while a process was watched: each of its programs, and an empty one."""

    programs: list[Runs]
    empty: Runs

    @property
    def counting_ns(self) -> float:
        """What of each run's time is the price of counting it."""
        return self.empty.time_ns / self.empty.number if self.empty.number else 0.0

    @property
    def net_ns(self) -> float:
        """The programs' own time, of all together."""
        return sum(map(self.net_ns_of, self.programs))

    def net_ns_of(self, program: Runs) -> float:
        """One program's own time."""
        return program.time_ns - program.number * self.counting_ns

    @property
    def most_runs(self) -> int:
        """Runs of the program that ran most."""
        return max((program.number for program in self.programs), default=0)


class Watch:
    """The run time of a process's programs, beside an empty program at a tracepoint that they are compared with."""

    def __init__(self, pid: int, empty_fd: int) -> None:
        self._ids = bpf.prog_ids_of_process(pid)
        self._empty_fd = empty_fd
        self._before = self._read()

    def cost(self) -> Cost:
        """Return what has been counted since it was made."""
        *programs, empty = (since(now, before) for now, before in zip(self._read(), self._before, strict=True))
        return Cost(programs, empty)

    def _read(self) -> list[Runs]:
        runs = []
        for prog_id in sorted(self._ids):
            with owned(bpf.prog_open(prog_id)) as fd:
                runs.append(bpf.prog_runs(fd))
        return [*runs, bpf.prog_runs(self._empty_fd)]


@contextmanager
def counted(event: str) -> Iterator[int]:
    """Have the kernel count and time all programs inside the block; yields the fd of an empty one, attached to a raw tracepoint.

    Counting costs some 40 ns a run, on the whole machine. The kernel ends it with this process, however that ends.
    """
    with (
        owned(bpf.enable_stats()),
        owned(bpf.prog_load(ProgType.RAW_TRACEPOINT, RETURN_ZERO, name="lab_empty")) as empty,
    ):
        link = bpf.raw_tracepoint_open(event, empty)
        try:
            yield empty
        finally:
            os.close(link)


def since(now: Runs, before: Runs) -> Runs:
    """Return what was counted between two readings."""
    return Runs(now.name, *(a - b for a, b in zip(now[1:], before[1:], strict=True)))
