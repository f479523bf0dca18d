"""Finding a network interface to observe, and noticing that it has gone.

What lives here: `Device` and the checks on it. What does not: attaching programs to it (`interface_attach.py`).
"""

import fcntl
import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from lab.errors import LabError
from lab.linux import netns as namespaces
from lab.linux.altname import interface_of

MODES = ("auto", "generic", "native")
"""Modes of XDP. `auto` is generic on veth, bond and loopback; elsewhere native, or generic if the driver refuses native.

Native XDP on a veth halves TCP throughput, even with an empty program.
"""

_SIOCGIFFLAGS = 0x8913
_SIOCGIFMTU = 0x8921
_SIOCGIFHWADDR = 0x8927
_WITH_ETHERNET_HEADER = (1, 772)  # ARPHRD_ETHER, ARPHRD_LOOPBACK
# ARPHRD_PPP, RAWIP, TUNNEL, TUNNEL6, SIT, IPGRE, IP6GRE and NONE, which is that of tun, WireGuard and xfrm.
_WITHOUT_LINK_HEADER = (512, 519, 768, 769, 776, 778, 823, 0xFFFE)
_CARRIER_S = 3.0
_IFF_UP, _IFF_LOOPBACK, _IFF_RUNNING = 0x1, 0x8, 0x40

T = TypeVar("T")


class Device(NamedTuple):
    """An interface of a named network namespace; `netns` None is the namespace of this process.

    `inode` is the namespace's inode number, which events of sockets carry too. An ifindex is unique within its
    namespace only: devices that are observed together must have different ones (`require_distinct`). `mode` is one of
    `MODES`. Without `ethernet` the interface carries IP packets without a link header, like tun and WireGuard.
    """

    ifname: str
    ifindex: int
    netns: str | None
    inode: int
    mode: str = "auto"
    ethernet: bool = True

    @classmethod
    def find(cls, ifname: str | None, netns: str | None = None, mode: str = "auto") -> "Device":
        """Return the interface of this name; without a name, the only one that is up, loopback not counted.

        Raises `LabError` when

        - there is no interface of that name;
        - there is no name, and not exactly one interface to choose;
        - the interface is down, or has no carrier within `_CARRIER_S`: the kernel takes up to a second to notice one
          (linkwatch_event());
        - the interface carries neither Ethernet frames nor IP packets without a link header.
        """
        inode = namespaces.inode_of(netns) if netns is not None else Path("/proc/thread-self/ns/net").stat().st_ino
        there = _inside(netns, _interfaces)
        candidates = [name for name, (_, flags) in there.items() if flags & _IFF_UP and not flags & _IFF_LOOPBACK]
        where = f" in the network namespace `{netns}`" if netns is not None else ""
        if ifname is None:
            if len(candidates) != 1:
                raise LabError(f"give an interface{where}: there are {', '.join(there)}")
            ifname = candidates[0]
        if ifname not in there:
            ifname = _inside(netns, partial(interface_of, ifname)) or ifname
        if ifname not in there:
            raise LabError(f"there is no interface `{ifname}`{where}: there are {', '.join(there)}")
        ifindex, flags = there[ifname]
        deadline = time.monotonic() + _CARRIER_S
        while flags & _IFF_UP and not flags & _IFF_RUNNING and time.monotonic() < deadline:
            time.sleep(0.01)
            ifindex, flags = _inside(netns, _interfaces).get(ifname, (0, 0))
        if not flags & _IFF_UP:
            raise LabError(f"the interface `{ifname}`{where} cannot be observed, it is down: set it up")
        if not flags & _IFF_RUNNING:
            raise LabError(
                f"the interface `{ifname}`{where} cannot be observed, it has no carrier: "
                "set the other end of its link up, or plug in its cable"
            )
        hardware = _inside(netns, lambda: _hardware(ifname))
        if hardware not in _WITH_ETHERNET_HEADER + _WITHOUT_LINK_HEADER:
            raise LabError(
                f"the interface `{ifname}`{where} has frames that are neither Ethernet nor IP "
                f"(ARPHRD {hardware}): give another interface"
            )
        return cls(ifname, ifindex, netns, inode, mode, hardware in _WITH_ETHERNET_HEADER)

    def require_present(self) -> None:
        """Raise `LabError` when the interface has gone, or another interface has taken its name."""
        try:
            index = self.inside(lambda: socket.if_nametoindex(self.ifname))
        except (OSError, LabError):
            index = 0
        if index != self.ifindex:
            raise LabError(f"the interface `{self.ifname}` has gone: start again when it is back")

    @property
    def mtu(self) -> int:
        """Largest number of bytes of an IP packet that the interface sends."""
        return self.inside(lambda: _mtu(self.ifname))

    def inside(self, function: Callable[[], T]) -> T:
        """Call a function in the interface's network namespace."""
        return _inside(self.netns, function)


def require_distinct(devices: Sequence[Device]) -> None:
    """Raise `LabError` unless all devices have different ifindexes: an event names its interface by ifindex only."""
    if len({device.ifindex for device in devices}) < len(devices):
        names = ", ".join(f"{device.ifname} in {device.netns or 'this namespace'}" for device in devices)
        raise LabError(f"interfaces with the same index cannot be watched together ({names}): give each its own index")


def defines_of(devices: Sequence[Device]) -> tuple[str, ...]:
    """Return the definitions with which programs are compiled for these devices.

    Raises `LabError` when some have Ethernet headers and others do not: a program has one form.
    """
    without = [device.ifname for device in devices if not device.ethernet]
    if without and len(without) < len(devices):
        raise LabError(
            f"interfaces with and without Ethernet headers ({', '.join(without)}) cannot be watched together: "
            "run the tool once for each"
        )
    return ("NO_ETHERNET=1",) if without else ()


def _inside(netns: str | None, function: Callable[[], T]) -> T:
    return function() if netns is None else namespaces.inside(netns, function)


def _interfaces() -> dict[str, tuple[int, int]]:
    """(ifindex, flags) by name of each interface in the calling thread's namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        found = {}
        for index, name in socket.if_nameindex():
            with suppress(OSError):  # removed after the listing
                answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sh14x", name.encode(), 0))
                found[name] = (index, struct.unpack_from("=H", answer, 16)[0])
        return found


def _hardware(ifname: str) -> int:
    """Return the hardware type of an interface (`ARPHRD_...`), 0 when the interface has gone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, suppress(OSError):
        answer = fcntl.ioctl(sock, _SIOCGIFHWADDR, struct.pack("16s24x", ifname.encode()))
        return int(struct.unpack_from("=H", answer, 16)[0])
    return 0


def _mtu(ifname: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, _SIOCGIFMTU, struct.pack("16s24x", ifname.encode()))
        return int(struct.unpack_from("=i", answer, 16)[0])
