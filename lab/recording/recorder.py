"""Recording: probes are attached together, and their rings and totals become one `Recording`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np

from lab.choice import Choice
from lab.ebpf.audit import Audit, Counts
from lab.ebpf.interface import Device, defines_of, require_distinct
from lab.ebpf.program import Program
from lab.linux.grace_period import await_grace_period
from lab.recording.drain_thread import DrainThread
from lab.recording.event_store import Store
from lab.recording.recording import Recording


class Recorder:
    """Attached programs, by probe name, that record. `recording` is set at the end of the `record` block."""

    def __init__(self, programs: Mapping[str, Program], devices: Sequence[Device]) -> None:
        self._programs = programs
        self._devices = devices
        no_events = np.dtype([("time_ns", "u8")])
        self._stores = {name: Store(it.ring.dtype if it.ring else no_events) for name, it in programs.items()}
        self._lost_before: dict[str, int] = {}
        self._recursion_before: dict[str, int] = {}
        self._audited_before: dict[str, Counts] = {}
        self._audits: dict[str, Audit] = {}
        self._thread = DrainThread(self._drain)
        self.recording: Recording

    def start(self, audits: dict[str, Audit]) -> None:
        """Start to record. The programs must be attached and the audits open."""
        self._audits = audits
        for name, program in self._programs.items():
            # Discard the events that came while the other programs were attached.
            if program.ring:
                program.ring.skip()
            if program.has_totals:
                program.take_totals()
            self._lost_before[name] = program.without_room()
            self._recursion_before[name] = program.withheld_by_recursion()
            self._audited_before[name] = audits[name].withheld()
        self._thread.start()

    def finish(self) -> None:
        """Wait for a grace period, so that events under way are in the rings, and set `recording`."""
        await_grace_period()
        audited = {name: audit.withheld() for name, audit in self._audits.items()}
        self.stop()
        self._thread.raise_failure()
        self._drain()
        self.recording = Recording(
            events={name: store.in_order() for name, store in self._stores.items()},
            lost={name: program.without_room() - self._lost_before[name] for name, program in self._programs.items()},
            totals={name: program.take_totals() for name, program in self._programs.items() if program.has_totals},
            attach_points={name: program.attach_points for name, program in self._programs.items()},
            withheld={
                name: int(np.maximum(0, audited[name] - self._audited_before[name]).sum())
                + max(0, program.withheld_by_recursion() - self._recursion_before[name])
                for name, program in self._programs.items()
            },
            devices={device.ifindex: (device.ifname, device.inode) for device in self._devices},
        )

    def stop(self) -> None:
        """Stop the draining thread, if it runs: a ring has one reader."""
        self._thread.stop()

    def _drain(self) -> None:
        for name, program in self._programs.items():
            if program.ring and (events := program.ring.drain()).size:
                self._stores[name].add(events)


@contextmanager
def record(
    *probes: str,
    programs: Mapping[str, Program] | None = None,
    devices: Sequence[Device] = (),
    lossy: bool = False,
) -> Iterator[Recorder]:
    """Attach probes by name (and the given programs), record their events inside the block, detach.

    Probes at network interfaces are attached to `devices`. If there are devices, the other probes are limited to
    sockets of the devices' network namespaces: other traffic on the machine cannot fill the rings.

    Raises `EventsLost` or `EventsWithheld` at the end of the block when events are missing, unless `lossy` is true.
    """
    loaded = {**{name: Program.load(name, defines_of(devices)) for name in probes}, **(programs or {})}
    require_distinct(devices)
    recorder = Recorder(loaded, devices)
    choice = Choice(netns={device.inode for device in devices})
    with ExitStack() as attached:
        for program in loaded.values():
            attached.enter_context(program.attached(devices, choice))
        audits = {name: attached.enter_context(Audit(program)) for name, program in loaded.items()}
        try:
            recorder.start(audits)
            yield recorder
            recorder.finish()
        finally:
            recorder.stop()
    if not lossy:
        recorder.recording.require_complete()
