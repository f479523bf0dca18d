"""Two tun devices, whose packets a thread of this process carries from one to the other: devices without Ethernet header."""

import fcntl
import os
import selectors
import struct
import threading
from contextlib import suppress
from functools import partial

from lab.errors import LabError
from lab.linux.netns import inside

_TUNSETIFF, _TUNSETIFINDEX = 0x400454CA, 0x400454DA
_IFF_TUN, _IFF_NO_PI = 0x1, 0x1000
_LONGEST = 1 << 16


class Tunnel:
    """A tunnel between two devices, given as (namespace, name, ifindex). The devices end with it."""

    def __init__(self, *ends: tuple[str, str, int]) -> None:
        self._fds: list[int] = []
        self._stop, self._stopped = os.pipe()
        self._thread = threading.Thread(target=self._run, name="lab-tunnel", daemon=True)
        try:
            for namespace, ifname, ifindex in ends:
                self._fds.append(inside(namespace, partial(_tun, ifname, ifindex)))
        except OSError as error:
            self._close()
            raise LabError(f"cannot create a tun device ({error.strerror}): load the module tun") from error
        self._thread.start()

    def remove(self) -> None:
        """End the thread and remove the devices."""
        os.write(self._stopped, b"x")
        self._thread.join()
        self._close()

    def carry(self, end: int, packet: bytes) -> None:
        """Give a packet that has come from an end (0 or 1) to the other one."""
        os.write(self._fds[1 - end], packet)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for fd in (self._stop, *self._fds):
                selector.register(fd, selectors.EVENT_READ)
            while self._stop not in (ready := [key.fd for key, _ in selector.select()]):
                for fd in ready:
                    with suppress(OSError):  # EIO: a device is down. A network drops packets that it cannot deliver.
                        self.carry(self._fds.index(fd), os.read(fd, _LONGEST))

    def _close(self) -> None:
        for fd in (*self._fds, self._stop, self._stopped):
            os.close(fd)


def _tun(ifname: str, ifindex: int) -> int:
    """Create a tun device in the calling thread's namespace and return its file."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(fd, _TUNSETIFINDEX, struct.pack("=I", ifindex))
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", ifname.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError:
        os.close(fd)
        raise
    return fd
