"""Whether a program was run each time it should have been: the kernel's own count of an event, beside the program's.

A full ring is counted by the program, a recursion by the kernel. But a kernel can also leave a program out without a word
(some machines do not run BPF for what happens while certain tasks are current, softirqs included). Events counted by perf
and not seen by the program are such events: nobody's fault here, and no recording is complete without them.

While a BPF program of somebody else is attached to the same tracepoint by way of perf (as those of libbpf-tools are), the kernel may
not count (perf_trace_run_bpf_submit()): what is withheld then goes unseen.
"""

import os
import struct
from collections.abc import Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import numpy as np

from lab.arrays import Integers
from lab.ebpf.program import Program
from lab.errors import LabError
from lab.linux import cpus, tracefs
from lab.linux.bpf import perf_event_open

_PERF_TYPE_TRACEPOINT = 2

Counts = Integers


class Hits:
    """Counts how often tracepoints were hit, on all processors, while open. Needs tracefs and perf events.

    `counters` are the file descriptors: for each processor one an event, in the order given.
    """

    def __init__(self, events: Iterable[str]) -> None:
        self.counters: dict[int, list[int]] = {cpu: [] for cpu in cpus.online()}
        with ExitStack() as opened:
            try:
                for event in events:
                    number = tracefs.event_id(event)
                    for cpu, fds in self.counters.items():
                        fds.append(perf_event_open(_PERF_TYPE_TRACEPOINT, number, cpu=cpu, counting=True))
                        opened.callback(os.close, fds[-1])
            except OSError as error:
                raise LabError(
                    f"this kernel refuses to count tracepoints ({error.strerror}): see lab doctor"
                ) from error
            self._stack = opened.pop_all()

    def count(self) -> Counts:
        """Return the hits of each event, in the order given, so far."""
        hits = [[int.from_bytes(os.read(fd, 8), "little") for fd in fds] for fds in self.counters.values()]
        return np.array(hits, np.int64).sum(axis=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


class Audit:
    """Counts the hits of a program's raw tracepoints for which the kernel did not run it, without a word, while open."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._hits = Hits(program.audited)

    def unseen(self) -> Counts:
        """Return the number for each of the program's `audited` tracepoints so far. Only differences mean something.

        Count and runs of a processor are read in one interrupt there (`bpf/audit.c`), which may have come just between the two: that
        is rare, and no second reading agrees with it.
        """
        reading = self._reading()
        while ((again := self._reading()) != reading).any():
            reading = again
        return reading

    def _reading(self) -> Counts:
        numbers = list(self._program.audited.values())
        if not numbers:
            return np.zeros(0, np.int64)
        reader = self._program.auditor
        unseen = -np.array(self._program.left_out(), np.int64)
        for cpu, counters in self._hits.counters.items():
            for number, fd in zip(numbers, counters, strict=True):
                reader.maps["hits"].write(struct.pack("=I", fd), number)
            reader.fire("audit", cpu=cpu)
            unseen += np.frombuffer(reader.maps["unseen"].read(), np.int64)[numbers]
        return unseen

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hits.__exit__(kind, error, trace)
