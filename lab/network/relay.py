"""The wire for any kernel: a process that forwards each frame from one device to the other and logs it.

What lives here: starting, controlling and ending the process, and reading its log. What does not: the process itself,
which is `wire/relay.c`.
"""

import mmap
import os
import socket
from pathlib import Path
from typing import IO

import numpy as np

from lab.errors import LabError
from lab.linux.netns import inside
from lab.network.conditions import Change, Conditions
from lab.network.frame_log import DROPPED_BETWEEN, FRAME, WireLog
from lab.network.helper import Helper, numbers, require_layout
from lab.network.link import SIDES, Place, dropped
from lab.network.offloads import turn_off
from lab.paths import PROGRAMS

PROGRAM = PROGRAMS / "lab-relay"
_NAME = "the wire's relay"
LOG_FRAMES = 1 << 19  # 100 MB when full; the kernel allocates the memory as it fills

# The relay's counters of events that no conditions ask for, and their names in messages.
_FAULTS = {
    "unlogged": "frames for which the log had no room",
    "dropped": "frames that the kernel dropped before the relay could read them",
    "refused": "frames that a device did not take",
    "unfinished": "frames without a checksum, from a host with offloads",
    "down": "times that a device went away",
    "clock_sets": "times that the wall clock was set",
    "lost_in_kernel": DROPPED_BETWEEN,
}


class Relay:
    """A link that applies all of `Conditions` and logs every frame.

    `log_frames` is the capacity of the log; a record has 192 bytes. Faults of the wire raise `LabError`, at the latest
    in `remove`.

    With `awake` no CPU of the machine enters an idle state while the relay runs (PM QoS). Without it a frame may wait
    for the relay to wake up, which takes long on a halted CPU, in particular on a virtual machine.
    """

    name = "relay"

    def __init__(self, *, log_frames: int = LOG_FRAMES, awake: bool = False) -> None:
        self._room = log_frames
        self._awake = awake
        self._latency: IO[bytes] | None = None
        self._place = Place("", ())
        self._helper: Helper | None = None
        self._records: mmap.mmap | None = None
        self._dropped_before = 0
        self._last = WireLog(np.zeros(0, FRAME))
        self._reported: dict[str, int] = {}  # the faults of the latest log that the caller has
        self._raised: dict[str, int] = {}
        self.scheduling = ""

    def install(self, place: Place) -> None:
        """Start the relay and wait until it forwards frames."""
        self._place = place
        for host in place.hosts:
            turn_off(host)
        if self._awake:
            self._latency = _keep_cpus_awake()
        self._dropped_before = dropped(place)
        fd = os.memfd_create("lab-wire-log")
        try:
            os.ftruncate(fd, self._room * FRAME.itemsize)
            self._records = mmap.mmap(fd, self._room * FRAME.itemsize, prot=mmap.PROT_READ)
            self._helper = inside(place.wire, lambda: self._start(fd))
        finally:
            os.close(fd)
        ready = self._helper.answer("ready").split()
        self.scheduling = ready[1]
        require_layout(_NAME, ready[2:], FRAME)

    def apply(self, to_server: Conditions, to_client: Conditions) -> Change:
        """Change the conditions and return the exact time of the change, which the relay reports."""
        lines = [_line(number, conditions) for number, conditions in enumerate((to_server, to_client))]
        since_ns = numbers(self._running().ask("\n".join([*lines, "apply"]), "applied"))["since_ns"]
        return Change(since_ns, since_ns)

    def waiting(self) -> int:
        """Return the number of frames that the relay holds."""
        return numbers(self._running().ask("status", "status"))["queue.length"]

    def log(self, *, lossy: bool = False) -> WireLog:
        """Return the log up to this moment, or the complete log after `remove`.

        Raises `LabError` if the wire had faults, unless the caller asks for a `lossy` log and inspects its faults.
        Faults are raised once: the log of connections that begin after the error is complete.
        """
        if self._helper and not self._helper.ended:
            self._last = self._read(self._running().ask("status", "status"))
        self._reported = self._last.faults
        if not lossy and self._last.faults != self._raised:
            self._raised = self._last.faults
            self._last.require_whole()
        return self._last

    def remove(self) -> None:
        """End the relay and keep its log. Raises `LabError` for faults that `log` has not reported."""
        if self._latency:
            self._latency.close()
        if not self._helper or self._helper.ended:
            return
        try:
            self._last = self._read(self._helper.ask("stop", "stopped"))
        finally:
            self._helper.end()
            if self._records:
                self._records.close()
        if self._last.faults != self._reported:
            self._last.require_whole()

    @property
    def pid(self) -> int:
        """Process id of the relay."""
        return self._running().pid

    def _start(self, log_fd: int) -> Helper:
        devices = [socket.if_nametoindex(side) for side in SIDES]
        return Helper(_NAME, PROGRAM, (log_fd, self._room, *devices), [log_fd])

    def _running(self) -> Helper:
        if not self._helper or self._helper.ended:
            raise LabError("this wire has been removed: use it inside the block of its topology")
        return self._helper

    def _read(self, answer: str) -> WireLog:
        state = numbers(answer) | {"lost_in_kernel": dropped(self._place) - self._dropped_before}
        records = (
            np.frombuffer(self._records, FRAME, count=state["logged"]).copy() if self._records else self._last.frames
        )
        faults = {what: state[name] for name, what in _FAULTS.items() if state[name]}
        return WireLog(records, state["queue.length"], faults)


def _keep_cpus_awake() -> IO[bytes]:
    """Request a CPU wake-up latency of 0 until the returned file is closed (PM QoS: 32 bits, in microseconds)."""
    path = Path("/dev/cpu_dma_latency")
    try:
        file = path.open("wb", buffering=0)
    except OSError as error:
        raise LabError(f"cannot keep the CPUs awake ({path}: {error.strerror}): leave `awake` out") from error
    file.write(bytes(4))
    return file


def _line(direction: int, c: Conditions) -> str:
    """Return the relay's command that sets the conditions of a direction."""
    fractions = (c.loss, c.duplicate, c.reorder, c.corrupt)
    words = (direction, c.delay_ns, c.jitter_ns, *map(repr, fractions), c.rate_bps, c.limit, c.seed, *c.drop)
    return " ".join(["set", *map(str, words)])
