"""Whether a program was run each time it should have been: the kernel's own count of an event, beside the program's.

A full ring is counted by the program, a recursion by the kernel. But a kernel can also leave a program out without a word
(some machines do not run BPF for what happens while certain tasks are current, softirqs included). Events counted by perf
and not seen by the program are such events: nobody's fault here, and no recording is complete without them.
"""

import os
from collections.abc import Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from lab import cpus, tracefs
from lab.bpf_syscall import perf_event_open
from lab.errors import LabError

_PERF_TYPE_TRACEPOINT = 2


class Hits:
    """Counts how often tracepoints were hit, on all processors, while open. Needs tracefs and perf events."""

    def __init__(self, events: Iterable[str]) -> None:
        self._counters: list[list[int]] = []
        with ExitStack() as opened:
            try:
                for event in events:
                    number = tracefs.event_id(event)
                    self._counters.append([])
                    for cpu in cpus.online():
                        fd = perf_event_open(_PERF_TYPE_TRACEPOINT, number, cpu=cpu, counting=True)
                        opened.callback(os.close, fd)
                        self._counters[-1].append(fd)
            except OSError as error:
                raise LabError(
                    f"this kernel refuses to count tracepoints ({error.strerror}): see lab doctor"
                ) from error
            self._stack = opened.pop_all()

    def count(self) -> npt.NDArray[np.int64]:
        """Return the hits of each event, in the order given, so far."""
        hits = [sum(int.from_bytes(os.read(fd, 8), "little") for fd in fds) for fds in self._counters]
        return np.array(hits, np.int64)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
