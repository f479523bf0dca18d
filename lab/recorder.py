"""Running probes together and collecting what they say: the step from rings to a recording."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import numpy.typing as npt

from lab.audit import Hits
from lab.device import Device, require_distinct
from lab.program import DRAIN_INTERVAL_S, Program
from lab.recording import Recording
from lab.settle import settle
from lab.store import Store

Counts = npt.NDArray[np.int64]


class Recorder:
    """Programs that record now, by probe name. `recording` is there when the `record` block has ended."""

    def __init__(self, programs: Mapping[str, Program], devices: Sequence[Device]) -> None:
        self._programs = programs
        self._devices = devices
        no_events = np.dtype([("time_ns", "u8")])
        self._stores = {name: Store(it.ring.dtype if it.ring else no_events) for name, it in programs.items()}
        self._lost_before: dict[str, int] = {}
        self._unseen_before: dict[str, Counts] = {}
        self._hits: dict[str, Hits] = {}
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._drain_by_timer, name="drain", daemon=True)
        self.recording: Recording

    def start(self, hits: dict[str, Hits]) -> None:
        """Begin, with the programs attached and their events counted."""
        self._hits = hits
        for name, program in self._programs.items():
            # What came while the others were attached:
            if program.ring:
                program.ring.skip()
            if program.has_totals:
                program.take_totals()
            self._lost_before[name] = program.lost()
            _, self._unseen_before[name] = self._unseen(name)
        self._thread.start()

    def finish(self) -> None:
        """Wait for what is under way, and make the recording."""
        unseen = {name: self._unseen(name)[0] for name in self._programs}
        self.stop()
        if self._failure is not None:
            raise self._failure
        self._drain()
        self.recording = Recording(
            events={name: store.in_order() for name, store in self._stores.items()},
            lost={name: program.lost() - self._lost_before[name] for name, program in self._programs.items()},
            totals={name: program.take_totals() for name, program in self._programs.items() if program.has_totals},
            attach_points={name: program.attach_points for name, program in self._programs.items()},
            withheld={
                name: int(np.maximum(0, count - self._unseen_before[name]).sum()) for name, count in unseen.items()
            },
            devices={device.ifindex: (device.ifname, device.inode) for device in self._devices},
        )

    def stop(self) -> None:
        """End the draining thread, if it runs: the ring has one reader."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _unseen(self, name: str) -> tuple[Counts, Counts]:
        """Bounds of the hits of each of a program's tracepoints that did not come to it so far.

        An event is counted and seen at two moments, so each reading stands a grace period apart from the next. Both bounds are
        exact when nothing happens meanwhile; on a machine that is never quiet the tightest of several are taken.
        """
        program, hits = self._programs[name], self._hits[name]
        bounds = []
        for _ in range(10):
            before = np.array(program.runs(), np.int64)
            settle()
            count = hits.count()
            settle()
            after = np.array(program.runs(), np.int64)
            bounds.append((count - after, count - before))
            if (before == after).all():
                break
        return np.max([least for least, _ in bounds], axis=0), np.min([most for _, most in bounds], axis=0)

    def _drain(self) -> None:
        for name, program in self._programs.items():
            if program.ring and (events := program.ring.drain()).size:
                self._stores[name].add(events)

    def _drain_by_timer(self) -> None:
        try:
            while not self._stop.wait(DRAIN_INTERVAL_S):
                self._drain()
        except BaseException as error:  # noqa: BLE001 (raised again by the thread that records)
            self._failure = error


@contextmanager
def record(
    *probes: str,
    programs: Mapping[str, Program] | None = None,
    devices: Sequence[Device] = (),
    lossy: bool = False,
) -> Iterator[Recorder]:
    """Attach probes by name (or given programs), record what happens inside the block, detach.

    Probes that observe at network interfaces are attached to `devices`, and where some are given, the others see the sockets of
    their network namespaces only: what else goes on on the machine cannot fill the rings. Raises `EventsLost` or `EventsWithheld`
    at the end when events are missing, unless `lossy` is asked for.
    """
    loaded = {**{name: Program.load(name) for name in probes}, **(programs or {})}
    require_distinct(devices)
    recorder = Recorder(loaded, devices)
    netns = {device.inode for device in devices}
    with ExitStack() as attached:
        for program in loaded.values():
            attached.enter_context(program.attached(devices, netns))
        hits = {name: attached.enter_context(Hits(program.events)) for name, program in loaded.items()}
        try:
            recorder.start(hits)
            yield recorder
            recorder.finish()
        finally:
            recorder.stop()
    if not lossy:
        recorder.recording.require_complete()
