"""Sending frames as they are, from an interface of a namespace, each with a stamp before and after."""

import ctypes
import errno
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from lab.arrays import Integers
from lab.errors import LabError
from lab.linux.netns import inside

_SOL_PACKET, _PACKET_VNET_HDR = 263, 15
_ETHERNET_HEADER = 14
_SPIN_NS = 200_000  # before a frame is due: a sleep ends some tens of microseconds late

Times = Integers


@dataclass(frozen=True)
class Sent:
    """What was sent, frame by frame, in order; the kernel took each frame between `before_ns` and `after_ns`.

    Both are arrays of nanoseconds on `CLOCK_MONOTONIC`, as long as `frames`.
    """

    frames: Sequence[bytes]
    before_ns: Times
    after_ns: Times

    def __len__(self) -> int:
        return len(self.frames)


class Sender:
    """Sends from an interface (`netns` None: of this process's own namespace); to be closed, or used by `with`.

    `as_machine`: as a virtual machine does, each frame behind a `struct virtio_net_hdr`.
    """

    def __init__(self, netns: str | None, ifname: str = "eth0", *, as_machine: bool = False) -> None:
        """Open the interface. Raises `LabError` when there is none of that name, or without privilege."""
        self._ifname, self._netns = ifname, netns
        try:
            self._socket = _packet_socket() if netns is None else inside(netns, _packet_socket)
        except PermissionError as error:
            raise LabError("sending frames as they are needs privileges: run it as root (sudo)") from error
        try:
            self._socket.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, as_machine)
            self._socket.bind((ifname, 0))
        except OSError as error:
            self._socket.close()
            where = f" in the network namespace `{netns}`" if netns is not None else ""
            raise LabError(f"cannot send from `{ifname}`{where} ({error.strerror}): is it there?") from error

    def send(self, frame: bytes) -> tuple[int, int]:
        """Send one frame; returns the times before and after. Raises `LabError` for what the interface does not take."""
        before_ns = time.monotonic_ns()
        try:
            self._socket.send(frame)
        except OSError as error:
            raise self._refused(error, len(frame)) from error
        return before_ns, time.monotonic_ns()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _refused(self, error: OSError, length: int) -> LabError:
        """Return the sentence for a frame that was not taken (packet_snd() in net/packet/af_packet.c)."""
        if error.errno == errno.EMSGSIZE:
            return LabError(
                f"a frame of {length} bytes is longer than `{self._ifname}` can carry: give it a larger MTU (--mtu)"
            )
        if error.errno == errno.EINVAL and length < _ETHERNET_HEADER:
            return LabError(f"a frame of {length} bytes is shorter than an Ethernet header: leave it out")
        if error.errno in (errno.ENXIO, errno.ENODEV):
            return LabError(f"the interface `{self._ifname}` has gone: start again when it is back")
        if error.errno == errno.ENETDOWN:
            return LabError(f"the interface `{self._ifname}` is down: set it up")
        if error.errno == errno.ENOBUFS:
            return LabError(f"`{self._ifname}` has dropped a frame for want of room: send more slowly")
        return LabError(f"`{self._ifname}` did not take a frame of {length} bytes ({error.strerror})")


def send(
    netns: str | None,
    frames: Iterable[bytes],
    ifname: str = "eth0",
    *,
    gap_ns: int | Sequence[int] = 0,
    as_machine: bool = False,
) -> Sent:
    """Send frames from an interface of a namespace, in their order; returns when each was sent.

    `gap_ns` is the time from one frame to the next, or for each frame the time since the one before (of the first, since now).
    Gaps add up from the start, so what comes late does not delay what follows. `as_machine` as for `Sender`.
    """
    whole = list(frames)
    gaps = np.full(len(whole), gap_ns) if isinstance(gap_ns, int) else np.asarray(gap_ns)
    if gaps.shape != (len(whole),) or (gaps < 0).any():
        raise ValueError("there is one gap for each frame, none of them below 0")
    stamps = np.zeros((len(whole), 2), np.int64)
    with Sender(netns, ifname, as_machine=as_machine) as sender, one_processor():
        due_ns = (time.monotonic_ns() + np.cumsum(gaps)).tolist()
        for number, (frame, due) in enumerate(zip(whole, due_ns, strict=True)):
            wait_until(due)
            stamps[number] = sender.send(frame)
    return Sent(whole, stamps[:, 0], stamps[:, 1])


@contextmanager
def one_processor() -> Iterator[None]:
    """Keep the calling thread on the processor where it is, so that what it sends arrives in order.

    A frame waits for its turn in the backlog of the processor that has sent it: after a move, the next one could overtake it.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {ctypes.CDLL(None).sched_getcpu()})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def wait_until(due_ns: int, pause: Callable[[float], object] = time.sleep) -> bool:
    """Wait until a time on `CLOCK_MONOTONIC`, to the microsecond on an idle machine and never too short.

    `pause` waits at most so many seconds; when it returns something true the rest is not waited for. Tells whether it did.
    """
    while (rest_ns := due_ns - time.monotonic_ns()) > 0:
        if rest_ns > _SPIN_NS and pause((rest_ns - _SPIN_NS) / 1e9):
            return True
    return False


def _packet_socket() -> socket.socket:
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
