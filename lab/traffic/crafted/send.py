"""Sending raw frames from an interface of a namespace, with a timestamp before and after each."""

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
_SPIN_NS = 200_000  # busy wait before a frame is due, since a sleep ends some tens of microseconds late

Times = Integers


@dataclass(frozen=True)
class Sent:
    """The frames that were sent, in order. The kernel accepted each between its `before_ns` and its `after_ns`.

    Both arrays are in nanoseconds on `CLOCK_MONOTONIC` and have one value for each frame.
    """

    frames: Sequence[bytes]
    before_ns: Times
    after_ns: Times

    def __len__(self) -> int:
        return len(self.frames)


class Sender:
    """A packet socket that sends from an interface. Use it in a `with` block, or close it.

    `netns` is None for the namespace of this process. With `as_machine` each frame follows a `struct virtio_net_hdr`,
    as the frames of a virtual machine do.
    """

    def __init__(self, netns: str | None, ifname: str = "eth0", *, as_machine: bool = False) -> None:
        """Open the interface. Raises `LabError` if it does not exist, or without privileges."""
        self._ifname, self._netns = ifname, netns
        try:
            self._socket = _packet_socket() if netns is None else inside(netns, _packet_socket)
        except PermissionError as error:
            raise LabError("sending raw frames needs privileges: run it as root (sudo)") from error
        try:
            self._socket.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, as_machine)
            self._socket.bind((ifname, 0))
        except OSError as error:
            self._socket.close()
            where = f" in the network namespace `{netns}`" if netns is not None else ""
            raise LabError(f"cannot send from `{ifname}`{where} ({error.strerror}): is it there?") from error

    def send(self, frame: bytes) -> tuple[int, int]:
        """Send one frame and return the times before and after. Raises `LabError` if the interface refuses it."""
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
        """Return the error for a refused frame. Source of the errnos: packet_snd() in net/packet/af_packet.c."""
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
            return LabError(f"`{self._ifname}` has dropped a frame because a queue is full: send more slowly")
        return LabError(f"`{self._ifname}` did not take a frame of {length} bytes ({error.strerror})")


def send(
    netns: str | None,
    frames: Iterable[bytes],
    ifname: str = "eth0",
    *,
    gap_ns: int | Sequence[int] = 0,
    as_machine: bool = False,
) -> Sent:
    """Send frames in order from an interface of a namespace, and return when each was sent.

    `gap_ns` is the gap before each frame: one value for all, or a sequence with one for each. The first gap counts from
    the call. Due times are sums of gaps, so a late frame does not delay the next. `as_machine` is as for `Sender`.
    """
    whole = list(frames)
    gaps = np.full(len(whole), gap_ns) if isinstance(gap_ns, int) else np.asarray(gap_ns)
    if gaps.shape != (len(whole),) or (gaps < 0).any():
        raise ValueError("gap_ns needs one gap for each frame, each 0 or more")
    stamps = np.zeros((len(whole), 2), np.int64)
    with Sender(netns, ifname, as_machine=as_machine) as sender, one_processor():
        due_ns = (time.monotonic_ns() + np.cumsum(gaps)).tolist()
        for number, (frame, due) in enumerate(zip(whole, due_ns, strict=True)):
            wait_until(due)
            stamps[number] = sender.send(frame)
    return Sent(whole, stamps[:, 0], stamps[:, 1])


@contextmanager
def one_processor() -> Iterator[None]:
    """Pin the calling thread to its current CPU, so that its frames arrive in the order in which it sends them.

    A frame waits in the backlog of the CPU that sent it. After a migration the next frame could overtake it on another
    CPU.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {ctypes.CDLL(None).sched_getcpu()})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def wait_until(due_ns: int, pause: Callable[[float], object] = time.sleep) -> bool:
    """Wait until a time on `CLOCK_MONOTONIC`; return true if `pause` ended the wait.

    The wait is never too short, and on an idle machine exact to the microsecond. `pause(seconds)` waits for at most
    that time; a true result ends the wait.
    """
    while (rest_ns := due_ns - time.monotonic_ns()) > 0:
        if rest_ns > _SPIN_NS and pause((rest_ns - _SPIN_NS) / 1e9):
            return True
    return False


def _packet_socket() -> socket.socket:
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
