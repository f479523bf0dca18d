"""Taps at the hosts' interfaces: when each frame passed, without BPF, and by when each CPU had finished earlier work.

What lives here: starting and ending the process that taps, and reading its logs. What does not: the process itself, which is
`wire/tap.c`, and what its times prove (`lab/truth/taps.py`).
"""

import mmap
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np

from lab import clock
from lab.arrays import Integers, Rows
from lab.ebpf.interface import Device
from lab.linux.netns import inside
from lab.network.helper import Helper, numbers, require_layout
from lab.paths import PROGRAMS

PROGRAM = PROGRAMS / "lab-tap"
_NAME = "the program that taps"
_FRAMES = 1 << 18  # 40 MB when full; the kernel allocates the memory as it fills
_TICKS = 1 << 18  # for each CPU: more than four minutes

TAPPED = np.dtype(
    [
        ("low_ns", "<i8"),
        ("high_ns", "<i8"),
        ("length", "<u4"),
        ("tap", "<u2"),
        ("outgoing", "u1"),
        ("early", "u1"),
        ("head", "u1", (128,)),
    ]
)
"""One frame at one interface: the layout of `struct record` in wire/tap.c; `taps` compares the two."""

_FAULTS = {
    "unlogged": "frames without room in the log",
    "dropped": "frames without room in a ring",
    "strange": "frames whose stamp is not that of their passage",
    "clock_sets": "clock sets",
}


@dataclass
class TapLog:
    """What the taps saw, complete after the block of `taps`.

    - `devices`: the inode of the namespace and the ifindex of each tap.
    - `frames`: an array of `TAPPED`.
    - `ticks`: times of each CPU, ascending: work in a softirq that began before one of them on this CPU was finished then.
    - `faults`: by name, what the log lacks. A log with faults proves nothing.
    """

    devices: Sequence[tuple[int, int]] = ()
    frames: Rows = field(default_factory=lambda: np.zeros(0, TAPPED))
    ticks: list[Integers] = field(default_factory=list)
    faults: dict[str, int] = field(default_factory=dict)


@contextmanager
def taps(devices: Sequence[Device]) -> Iterator[TapLog]:
    """Tap interfaces with an Ethernet header during the block; the log is complete after it.

    Without interfaces there is nothing to do.
    """
    log = TapLog([(device.inode, device.ifindex) for device in devices])
    if not devices:
        yield log
        return
    with ExitStack() as opened:
        fds = [os.memfd_create(name) for name in ("lab-tap-log", "lab-tap-ticks")]
        for fd in fds:
            opened.callback(os.close, fd)
        # In an emulated guest the system calls of the ticks take part in what probes of system calls observe.
        room = 1 if clock.GUEST in os.environ else _TICKS
        sizes = (_FRAMES * TAPPED.itemsize, room * 8 * _cpus())
        for fd, size in zip(fds, sizes, strict=True):
            os.ftruncate(fd, size)
        sockets = [opened.enter_context(_packet_socket(device)) for device in devices]
        places = [f"{sock.fileno()}:{device.ifindex}" for sock, device in zip(sockets, devices, strict=True)]
        arguments = (fds[0], _FRAMES, fds[1], room, *places)
        helper = Helper(_NAME, PROGRAM, arguments, [*fds, *(sock.fileno() for sock in sockets)])
        opened.callback(helper.end)
        require_layout(_NAME, helper.answer("ready").split()[1:], TAPPED)
        yield log
        state = numbers(helper.ask("state", "state"))
        log.faults = {what: state[name] for name, what in _FAULTS.items() if state[name]}
        records, ticks = (opened.enter_context(mmap.mmap(fd, 0, prot=mmap.PROT_READ)) for fd in fds)
        log.frames = np.frombuffer(records, TAPPED, state["logged"]).copy()
        for name, count in state.items():
            if name.startswith("ticks."):
                start = int(name.removeprefix("ticks.")) * room * 8
                log.ticks.append(np.frombuffer(ticks, np.int64, count, start).copy())


def _cpus() -> int:
    return os.sysconf("SC_NPROCESSORS_CONF")


def _packet_socket(device: Device) -> socket.socket:
    """Open a packet socket that receives nothing until it is bound."""

    def opened() -> socket.socket:
        return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)

    return inside(device.netns, opened) if device.netns else opened()
