"""Events for live tools whose processing may take longer than the ring can hold events: a thread drains the ring."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from lab.arrays import Events, concatenated
from lab.choice import EVERYTHING, Choice
from lab.ebpf.interface import Device
from lab.ebpf.program import Program
from lab.ebpf.ringbuf import Rings
from lab.live import drain
from lab.live.account import Account
from lab.recording.drain_thread import DrainThread

MOST_COLLECTED = 4_000_000
"""Limit of the events in memory that wait for a slow tool: some hundred megabytes."""


class Collector:
    """Drains a ring on its own thread and keeps the events until `take`.

    When more than `MOST_COLLECTED` events wait, further ones are dropped and counted in `dropped`.
    """

    def __init__(self, ring: Rings) -> None:
        self.dropped = 0
        self._ring = ring
        self._chunks: list[Events] = []
        self._lock = threading.Lock()
        self._thread = DrainThread(self._drain)

    def take(self) -> Events:
        """Return the events since the last call, in the order of the rings."""
        import numpy as np

        self._drain()
        with self._lock:
            chunks, self._chunks = self._chunks, []
        self._thread.raise_failure()
        return concatenated([np.zeros(0, self._ring.dtype), *chunks])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.stop()

    def _drain(self) -> None:
        with self._lock:
            events = self._ring.drain()
            if sum(map(len, self._chunks)) > MOST_COLLECTED:
                self.dropped += len(events)
            elif events.size:
                self._chunks.append(events)


@contextmanager
def collected(
    program: Program,
    interval_s: float,
    seconds: float | None = None,
    devices: Sequence[Device] = (),
    choice: Choice = EVERYTHING,
    account: Account | None = None,
) -> Iterator[Iterator[tuple[Events, int]]]:
    """Attach a program and yield once per interval: events sorted by kernel time, and a time.

    The events are complete up to that time, which is in nanoseconds on `CLOCK_MONOTONIC`. A batch may be empty. A
    separate thread drains the ring (`Collector`). The other arguments are those of `drain.ticks`.
    """
    ring, account = drain.ring_of(program), account or Account()

    def batches(times: Iterator[None], collector: Collector) -> Iterator[tuple[Events, int]]:
        waiting, dropped = collector.take(), 0
        for _ in times:
            complete, waiting, complete_ns = drain.by_time(waiting, collector.take)
            yield complete, complete_ns
            if collector.dropped > dropped:
                account.add_without_room(collector.dropped - dropped)
                dropped = collector.dropped
        yield waiting, time.monotonic_ns()

    with drain.ticks(program, interval_s, seconds, devices, choice, account) as times, Collector(ring) as collector:
        yield batches(times, collector)
