"""Run time of a process's BPF programs by the kernel's statistics (BPF_ENABLE_STATS), and the statistics' own cost."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from lab.linux import bpf
from lab.linux.bpf import RETURN_ZERO, ProgType, Runs
from lab.linux.syscalls import owned


class Cost(NamedTuple):
    """Program runs while a process was watched: those of each of its programs, and those of an empty program."""

    programs: list[Runs]
    empty: Runs

    @property
    def counting_ns(self) -> float:
        """Cost of the statistics per program run: the mean time of the empty program."""
        return self.empty.time_ns / self.empty.number if self.empty.number else 0.0

    @property
    def net_ns(self) -> float:
        """Time of all programs, without the cost of the statistics."""
        return sum(map(self.net_ns_of, self.programs))

    def net_ns_of(self, program: Runs) -> float:
        """Time of one program, without the cost of the statistics."""
        return program.time_ns - program.number * self.counting_ns

    @property
    def most_runs(self) -> int:
        """Number of runs of the program that ran most often."""
        return max((program.number for program in self.programs), default=0)


class Watch:
    """Run time of a process's programs and of an empty program at a tracepoint, since this object was created."""

    def __init__(self, pid: int, empty_fd: int) -> None:
        self._ids = bpf.prog_ids_of_process(pid)
        self._empty_fd = empty_fd
        self._before = self._read()

    def cost(self) -> Cost:
        """Return the program runs since this object was created."""
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
    """Enable run-time statistics during a block. Yield the fd of an empty program, attached to a raw tracepoint.

    The statistics cost about 40 ns per program run, for all programs of the machine. The kernel disables them when this
    process exits.
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


def read_runs(fds: Iterable[int]) -> list[Runs]:
    """Return the runs so far of some programs."""
    return [bpf.prog_runs(fd) for fd in fds]


def since(now: Runs, before: Runs) -> Runs:
    """Return the program runs between two readings."""
    return Runs(now.name, *(a - b for a, b in zip(now[1:], before[1:], strict=True)))
