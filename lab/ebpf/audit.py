"""The audit: how many events the kernel withheld from a program without counting them.

The problem: a kernel may not run a program although its tracepoint was hit. It counts one cause only:
`recursion_misses`, the program was already running on that CPU. Some machines do not run BPF programs while certain
tasks are current, softirqs included, and count nothing. A recording would lack these events, and the probe would seem
to report wrong numbers.

The idea: perf counts the hits of a tracepoint on each CPU without BPF. The program counts its runs on each CPU in the
map `runs`. For each tracepoint, summed over the CPUs,

    withheld = hits (perf) - runs (program) - recursion misses

What does not work: read all hits, then all runs, with grace periods before and after. Each event between the two
readings is in one sum and not in the other:

    0 us   the kernel has withheld 1 event so far: hits 100, runs 99. The reader reads 100 hits
    1 us   CPU 1: an event. Hits 101, runs 100
    2 us   the reader reads 100 runs. The difference is 0: the event hides the withheld one

Readings around grace periods give bounds only, and they are wide on a busy machine.

The solution: `bpf/audit.c` reads both counts of a CPU on that CPU, in one interrupt, which BPF_F_TEST_RUN_ON_CPU of
BPF_PROG_TEST_RUN causes. Nothing else runs on that CPU in between:

    0 us   CPU 0: the reader asks CPU 1 to run audit.c
    3 us   CPU 1: the interrupt. audit.c reads hits 101 and runs 100 and stores the difference, 1. A simultaneous event
           on CPU 2 is in neither count of CPU 1
    5 us   CPU 0: the reader reads the difference and continues with CPU 2

One error remains: the interrupt may come inside the tracepoint, after one count of the event and before the other. On
the reader's own CPU, where the kernel runs audit.c without an interrupt, an event may also come between the two reads.
Both are rare, and the next reading differs. The reader repeats until two readings in a row agree.

The counters start at different times (runs when the program is loaded, hits when the audit opens), so only the
difference of two readings means anything. `Recorder` takes one at the start and one at the end of a recording. It adds
recursion misses that no second program made up for (`Program.withheld_by_recursion`).

The limit: while another process has a BPF program attached to the same tracepoint by perf (libbpf-tools do that), the
kernel may not count its hits (perf_trace_run_bpf_submit()). The audit does not see the events that are withheld then.
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
    """Counts the hits of tracepoints on all CPUs while open. Needs tracefs and perf events.

    `counters` has, by CPU, one file descriptor for each event, in the order given. Raises `LabError` when the kernel
    refuses.
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
                raise LabError.refusal("to count tracepoints", error) from error
            self._stack = opened.pop_all()

    def count(self) -> Counts:
        """Return the hits of each event since the object was made, in the order given."""
        hits = [[int.from_bytes(os.read(fd, 8), "little") for fd in fds] for fds in self.counters.values()]
        return np.array(hits, np.int64).sum(axis=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


class Audit:
    """Counts the events that the kernel withheld from a program without counting them, while open."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._hits = Hits(program.audited)

    def withheld(self) -> Counts:
        """Return the number of withheld events plus a constant, for each of the program's `audited` tracepoints.

        Subtract two results: the constant is the same while the audit is open.
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
        withheld = -np.array(self._program.recursion_misses(), np.int64)
        for cpu, counters in self._hits.counters.items():
            for number, fd in zip(numbers, counters, strict=True):
                reader.maps["hits"].write(struct.pack("=I", fd), number)
            reader.fire("audit", cpu=cpu)
            withheld += np.frombuffer(reader.maps["unseen"].read(), np.int64)[numbers]
        return withheld

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hits.__exit__(kind, error, trace)
