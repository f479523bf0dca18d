"""A wire for any kernel: a process that carries each frame from one device to the other, and writes down when.

The process is `wire/relay.c`, built at set-up. Here it is started, told what to do, asked what it did, and ended.
"""

import mmap
import os
import selectors
import socket
import subprocess
import sys
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

PROGRAM = Path(sys.prefix, "bin", "lab-relay")
LOG_FRAMES = 1 << 19  # 100 MB when full; memory is taken as it fills

# What the relay counts that no wire is told to do, and what to call it.
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
    """A link that can do everything `Conditions` says and logs every frame (`log`).

    `log_frames` bounds the log: a record is 192 bytes. A wire that dropped, or did not note, a frame that it was not told to
    drop raises `LabError` at the latest when it is taken down.

    With `awake` no processor of the machine is put to rest while the relay is there (PM QoS). A frame that is not delayed waits
    for the relay to wake up, which takes long on a processor that has been halted, on a virtual machine above all.
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
        self._told: dict[str, int] = {}
        self._raised: dict[str, int] = {}
        self.scheduling = ""

    def install(self, place: Place) -> None:
        """Start the relay; returns when it carries."""
        self._place = place
        for host in place.hosts:
            turn_off(host)
        if self._awake:
            self._latency = _keep_processors_awake()
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
            raise LabError("the relay was built from another version of its source: run make setup")

    def apply(self, to_server: Conditions, to_client: Conditions) -> Change:
        """Change the conditions; they hold from one moment on, which the relay tells."""
        lines = [_line(number, conditions) for number, conditions in enumerate((to_server, to_client))]
        since_ns = _numbers(self._ask("\n".join([*lines, "apply"]), "applied"))["since_ns"]
        return Change(since_ns, since_ns)

    def waiting(self) -> int:
        """Count the frames that are held now."""
        return _numbers(self._ask("status", "status"))["queue.length"]

    def log(self, *, lossy: bool = False) -> WireLog:
        """Return what the wire has done until now, or until it was taken down.

        Raises `LabError` when that is not the whole truth, unless the caller asks for a `lossy` log and looks at its faults.
        What it has raised for once it does not raise for again: who goes on after it, with new connections, has those whole.
        """
        if self._process:
            self._last = self._read(self._ask("status", "status"))
        self._told = self._last.faults
        if not lossy and self._last.faults != self._raised:
            self._raised = self._last.faults
            self._last.require_whole()
        return self._last

    def remove(self) -> None:
        """End the relay, and keep its log."""
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
        if self._last.faults != self._told:
            self._last.require_whole()

    @property
    def pid(self) -> int:
        """The relay's process."""
        return self._running().pid

    def _start(self, log_fd: int) -> subprocess.Popen[bytes]:
        devices = [str(socket.if_nametoindex(side)) for side in SIDES]
        if not PROGRAM.exists():
            raise LabError("the relay has not been built: run make setup")
        return subprocess.Popen(
            [PROGRAM, str(os.getpid()), str(log_fd), str(self._room), *devices],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(log_fd,),
            bufsize=0,  # an answer is there when its pipe is readable, and nowhere else
            # A terminal's Ctrl-C is for the lab, which ends its relay when the network goes.
            start_new_session=True,
        )

    def _ask(self, text: str, word: str) -> str:
        """Send lines and return the answer that begins with `word`."""
        stdin = _pipe(self._running().stdin)
        with suppress(BrokenPipeError):  # it has ended; waiting for its answer tells why
            stdin.write(f"{text}\n".encode())
        return self._answer(word)

    def _answer(self, word: str, limit_s: float = 20.0) -> str:
        """Wait for the line that begins with `word`; one that an interrupted caller did not wait for is passed over."""
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
            raise LabError("this wire is not there: its conditions and its process end with its network")
        return self._process

    def _end(self) -> str:
        """Make sure that the process is gone; returns what it said about its end."""
        process, self._process = self._running(), None
        with process:  # closes its pipes
            process.kill()
            said = _pipe(process.stderr).read().decode(errors="replace").strip()
        return f": {said.splitlines()[-1]}" if said else f" with status {process.returncode}"

    def _read(self, answer: str) -> WireLog:
        numbers = _numbers(answer)
        numbers["lost_in_kernel"] = dropped(self._place) - self._dropped_before
        records = (
            np.frombuffer(self._records, FRAME, count=numbers["logged"]).copy() if self._records else self._last.frames
        )
        faults = {what: numbers[name] for name, what in _FAULTS.items() if numbers[name]}
        return WireLog(records, numbers["queue.length"], faults)


def _keep_processors_awake() -> IO[bytes]:
    """Tolerate no latency of a processor's wake-up, until the file is closed. Source: PM QoS, 32 bits of microseconds."""
    path = Path("/dev/cpu_dma_latency")
    try:
        file = path.open("wb", buffering=0)
    except OSError as error:
        raise LabError(f"cannot keep processors awake ({path}: {error.strerror}): leave `awake` out") from error
    file.write(bytes(4))
    return file


def _line(direction: int, c: Conditions) -> str:
    """Write conditions as the relay reads them."""
    fractions = (c.loss, c.duplicate, c.reorder, c.corrupt)
    words = (direction, c.delay_ns, c.jitter_ns, *map(repr, fractions), c.rate_bps, c.limit, c.seed, *c.drop)
    return " ".join(["set", *map(str, words)])


def _numbers(answer: str) -> dict[str, int]:
    pairs = (word.split("=") for word in answer.split()[1:])
    return {name: int(value) for name, value in pairs}


def _layout() -> list[str]:
    """List the fields of a record with offset and size, as the relay does."""
    fields = [(name, *field[:2]) for name, field in (FRAME.fields or {}).items() if name != "pad"]
    return [f"{name}:{offset}:{kind.itemsize}" for name, kind, offset in fields]


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # noqa: S101 (Popen was asked for a pipe)
    return stream
