"""The wire for any kernel: a process that forwards each frame from one device to the other and logs it.

What lives here: starting, controlling and ending the process, and reading its log. What does not: the process itself,
which is `wire/relay.c`.
"""

import mmap
import os
import selectors
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np

from lab.errors import LabError
from lab.linux.netns import inside
from lab.network.conditions import Change, Conditions
from lab.network.frame_log import DROPPED_BETWEEN, FRAME, WireLog
from lab.network.link import SIDES, Place, dropped
from lab.network.offloads import turn_off
from lab.paths import PROGRAMS

PROGRAM = PROGRAMS / "lab-relay"
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
        self._process: subprocess.Popen[bytes] | None = None
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
            self._process = inside(place.wire, lambda: self._start(fd))
        finally:
            os.close(fd)
        ready = self._answer("ready").split()
        self.scheduling = ready[1]
        if ready[2:] != _layout():
            raise LabError("the relay was built from another version of its source: run `make setup`")

    def apply(self, to_server: Conditions, to_client: Conditions) -> Change:
        """Change the conditions and return the exact time of the change, which the relay reports."""
        lines = [_line(number, conditions) for number, conditions in enumerate((to_server, to_client))]
        since_ns = _numbers(self._ask("\n".join([*lines, "apply"]), "applied"))["since_ns"]
        return Change(since_ns, since_ns)

    def waiting(self) -> int:
        """Return the number of frames that the relay holds."""
        return _numbers(self._ask("status", "status"))["queue.length"]

    def log(self, *, lossy: bool = False) -> WireLog:
        """Return the log up to this moment, or the complete log after `remove`.

        Raises `LabError` if the wire had faults, unless the caller asks for a `lossy` log and inspects its faults.
        Faults are raised once: the log of connections that begin after the error is complete.
        """
        if self._process:
            self._last = self._read(self._ask("status", "status"))
        self._reported = self._last.faults
        if not lossy and self._last.faults != self._raised:
            self._raised = self._last.faults
            self._last.require_whole()
        return self._last

    def remove(self) -> None:
        """End the relay and keep its log. Raises `LabError` for faults that `log` has not reported."""
        if self._latency:
            self._latency.close()
        if not self._process:
            return
        try:
            self._last = self._read(self._ask("stop", "stopped"))
        finally:
            if self._process:
                self._end()
            if self._records:
                self._records.close()
        if self._last.faults != self._reported:
            self._last.require_whole()

    @property
    def pid(self) -> int:
        """Process id of the relay."""
        return self._running().pid

    def _start(self, log_fd: int) -> subprocess.Popen[bytes]:
        devices = [str(socket.if_nametoindex(side)) for side in SIDES]
        if not PROGRAM.exists():
            raise LabError("the relay has not been built: run `make setup`")
        return subprocess.Popen(
            [PROGRAM, str(os.getpid()), str(log_fd), str(self._room), *devices],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(log_fd,),
            bufsize=0,  # select() would miss an answer in a buffer of this process
            # Ctrl-C of a terminal must reach the lab only, which ends the relay when it removes the network.
            start_new_session=True,
        )

    def _ask(self, text: str, word: str) -> str:
        """Send lines and return the answer that begins with `word`."""
        stdin = _pipe(self._running().stdin)
        with suppress(BrokenPipeError):  # the relay has ended; _answer() raises with its message
            stdin.write(f"{text}\n".encode())
        return self._answer(word)

    def _answer(self, word: str, limit_s: float = 20.0) -> str:
        """Return the next line that begins with `word`, skipping the answers to earlier, interrupted calls."""
        stdout = _pipe(self._running().stdout)
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while selector.select(limit_s):
                line = stdout.readline().decode()
                if line.startswith(word):
                    return line
                if not line:
                    raise LabError(f"the wire's relay has ended{self._end()}")
        raise LabError(f"the wire's relay did not answer within {limit_s:g} s: is the machine overloaded?")

    def _running(self) -> subprocess.Popen[bytes]:
        if not self._process:
            raise LabError("this wire has been removed: use it inside the block of its topology")
        return self._process

    def _end(self) -> str:
        """Kill the process and return the end of a sentence: its last line of standard error, or its status."""
        process, self._process = self._running(), None
        with process:  # closes its pipes
            process.kill()
            errors = _pipe(process.stderr).read().decode(errors="replace").strip()
        return f": {errors.splitlines()[-1]}" if errors else f" with status {process.returncode}"

    def _read(self, answer: str) -> WireLog:
        numbers = _numbers(answer)
        numbers["lost_in_kernel"] = dropped(self._place) - self._dropped_before
        records = (
            np.frombuffer(self._records, FRAME, count=numbers["logged"]).copy() if self._records else self._last.frames
        )
        faults = {what: numbers[name] for name, what in _FAULTS.items() if numbers[name]}
        return WireLog(records, numbers["queue.length"], faults)


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


def _numbers(answer: str) -> dict[str, int]:
    pairs = (word.split("=") for word in answer.split()[1:])
    return {name: int(value) for name, value in pairs}


def _layout() -> list[str]:
    """Return the fields of a record with offset and size, in the form that the relay prints at its start."""
    fields = [(name, *field[:2]) for name, field in (FRAME.fields or {}).items() if name != "pad"]
    return [f"{name}:{offset}:{kind.itemsize}" for name, kind, offset in fields]


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # noqa: S101 (Popen was asked for a pipe)
    return stream
