"""A network interface that programs are attached to: finding it, attaching at TC and XDP, noticing that it has gone.

Programs are attached by BPF links where the kernel has them: those end with the process, however it ends. TC before
Linux 6.6 has none; there a clsact qdisc with a filter is added, and taken away again.
"""

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from lab.errors import LabError
from lab.linux import ethtool
from lab.linux.bpf import AttachType, link_create
from lab.linux.netns import inode_of, inside

if TYPE_CHECKING:
    from pyroute2 import IPRoute

MODES = ("auto", "generic", "native")
"""How XDP is attached. `auto` is generic on a veth and on loopback, and elsewhere native where the driver has it.

Native XDP on a veth halves what TCP can send through it, even with an empty program.
"""

_TCX = {"ingress": AttachType.TCX_INGRESS, "egress": AttachType.TCX_EGRESS}
_CLSACT = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}  # TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS, _EGRESS)
_XDP_FLAGS = {"generic": 1 << 1, "native": 1 << 2}  # XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE
_REFUSED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ERANGE, errno.ENOTSUP)  # what a driver without XDP says
_SIOCGIFFLAGS = 0x8913
_SIOCGIFHWADDR = 0x8927
_PRIORITY = 0x1AB  # of the first filter
_OURS = "lab_"
_WITH_ETHERNET_HEADER = (1, 772)  # ARPHRD_ETHER, ARPHRD_LOOPBACK
_IFF_UP, _IFF_LOOPBACK, _IFF_RUNNING = 0x1, 0x8, 0x40

T = TypeVar("T")


@dataclass(frozen=True)
class Device:
    """An interface of a named network namespace (`netns` None: of this process's own).

    `inode` is the namespace's inode number, as events of sockets carry it. An ifindex is unique in its namespace only, so
    devices that are watched together must have different ones (`require_distinct`).
    """

    ifname: str
    ifindex: int
    netns: str | None
    inode: int
    mode: str = "auto"

    @classmethod
    def find(cls, ifname: str | None, netns: str | None = None, mode: str = "auto") -> "Device":
        """Look an interface up; without a name, the only one that is up beside the loopback.

        Raises `LabError` when there is none of that name, when it has no carrier, when its frames are not Ethernet's, and when
        there is a choice to make.
        """
        inode = inode_of(netns) if netns is not None else Path("/proc/thread-self/ns/net").stat().st_ino
        there = _inside(netns, _interfaces)
        candidates = [name for name, (_, flags) in there.items() if flags & _IFF_UP and not flags & _IFF_LOOPBACK]
        where = f" in the network namespace `{netns}`" if netns is not None else ""
        if ifname is None:
            if len(candidates) != 1:
                raise LabError(f"give an interface{where}: there are {', '.join(there)}")
            ifname = candidates[0]
        if ifname not in there:
            raise LabError(f"there is no interface `{ifname}`{where}: there are {', '.join(there)}")
        ifindex, flags = there[ifname]
        if not flags & _IFF_RUNNING:
            raise LabError(f"nothing can pass the interface `{ifname}`{where}, it is down or has no carrier: set it up")
        if _inside(netns, lambda: _hardware(ifname)) not in _WITH_ETHERNET_HEADER:
            raise LabError(
                f"the interface `{ifname}`{where} carries no Ethernet frames: watch the one that it sends through"
            )
        return cls(ifname, ifindex, netns, inode, mode)

    def require_present(self) -> None:
        """Raise `LabError` when the interface has gone: nothing more will come from it."""
        try:
            index = _inside(self.netns, lambda: socket.if_nametoindex(self.ifname))
        except (OSError, LabError):
            index = 0
        if index != self.ifindex:
            raise LabError(f"the interface `{self.ifname}` has gone: start again when it is back")

    @property
    def xdp_mode(self) -> str:
        """How `attach_xdp` will attach first."""
        kind = _inside(self.netns, lambda: _driver(self.ifname))
        return self.mode if self.mode != "auto" else "generic" if kind in ("veth", "") else "native"

    def attach_xdp(self, fd: int, _event: str, links: ExitStack) -> str:
        """Attach an XDP program until `links` is closed; returns the mode that the device has accepted.

        Raises `LabError` when another one is there already.
        """
        mode = self.xdp_mode

        def attach() -> int:
            return link_create(fd, self.ifindex, AttachType.XDP, _XDP_FLAGS[mode])

        try:
            link = _inside(self.netns, attach)
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.EEXIST):
                raise LabError(
                    f"`{self.ifname}` has an XDP program already: take it away (`ip link set ... xdp off`)"
                ) from error
            if error.errno in _REFUSED and self.mode == "auto" and mode == "native":
                mode = "generic"
                link = _inside(self.netns, attach)
            elif error.errno in _REFUSED:
                raise LabError(
                    f"`{self.ifname}` cannot have {mode} XDP ({error.strerror}): try another mode"
                ) from error
            else:
                raise
        links.callback(os.close, link)
        return mode

    def attach_tc(self, fd: int, direction: str, links: ExitStack) -> str:
        """Attach a TC program at `ingress` or `egress` until `links` is closed; returns by what: `tcx` or `clsact`."""
        try:
            link = _inside(self.netns, lambda: link_create(fd, self.ifindex, _TCX[direction]))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            filter_ = _inside(self.netns, lambda: _add_filter(self.ifindex, fd, direction))
            links.callback(self._take_away, filter_)
            return "clsact"
        links.callback(os.close, link)
        return "tcx"

    def _take_away(self, filter_: "_Filter") -> None:
        with suppress(LabError):  # the namespace has gone, and the filter with it
            _inside(self.netns, lambda: _remove_filter(self.ifindex, filter_))


def require_distinct(devices: Sequence[Device]) -> None:
    """Raise `LabError` unless the devices can be told apart by their ifindex."""
    if len({device.ifindex for device in devices}) < len(devices):
        names = ", ".join(f"{device.ifname} in {device.netns or 'this namespace'}" for device in devices)
        raise LabError(f"interfaces with the same index cannot be watched together ({names}): give each its own index")


def _inside(netns: str | None, function: Callable[[], T]) -> T:
    return function() if netns is None else inside(netns, function)


def _interfaces() -> dict[str, tuple[int, int]]:
    """(ifindex, flags) of each interface of the namespace that the calling thread is in."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        found = {}
        for index, name in socket.if_nameindex():
            with suppress(OSError):  # gone since it was listed
                answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sh14x", name.encode(), 0))
                found[name] = (index, struct.unpack_from("=H", answer, 16)[0])
        return found


def _hardware(ifname: str) -> int:
    """Return what kind of frames an interface has (`ARPHRD_...`); 0 when it has gone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, suppress(OSError):
        answer = fcntl.ioctl(sock, _SIOCGIFHWADDR, struct.pack("16s24x", ifname.encode()))
        return int(struct.unpack_from("=H", answer, 16)[0])
    return 0


def _driver(ifname: str) -> str:
    """Return the name of an interface's driver in the calling thread's namespace, "" when it has none (loopback)."""
    with suppress(OSError):
        return ethtool.driver(ifname)
    return ""


class _Filter(NamedTuple):
    """One filter of ours, and whether its qdisc is to go when no filter is left on it."""

    direction: str
    priority: int
    own_qdisc: bool


def _add_filter(ifindex: int, fd: int, direction: str) -> _Filter:
    """Add a filter behind those that are there, and a clsact qdisc when there is none."""
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        if any(qdisc.get_attr("TCA_KIND") == "clsact" for qdisc in netlink.get_qdiscs(ifindex)):
            filters = {way: _filters(netlink, ifindex, way) for way in _CLSACT}
            own_qdisc = any(filters.values()) and all(
                name.startswith(_OURS) for names in filters.values() for name in names.values()
            )
        else:
            netlink.tc("add", "clsact", ifindex)
            filters, own_qdisc = {direction: {}}, True
        priority = max([_PRIORITY, *(taken + 1 for taken in filters[direction])])
        options = {"fd": fd, "name": f"{_OURS}{direction}", "parent": _CLSACT[direction], "direct_action": True}
        netlink.tc("add-filter", "bpf", ifindex, ":1", prio=priority, **options)
    return _Filter(direction, priority, own_qdisc)


def _filters(netlink: "IPRoute", ifindex: int, direction: str) -> dict[int, str]:
    """Return the filters at one hook of a clsact qdisc: priority, and the name of a BPF one ("" of others)."""
    found: dict[int, str] = {}
    for message in netlink.get_filters(index=ifindex, parent=_CLSACT[direction]):
        options = message.get_attr("TCA_OPTIONS")
        name = options.get_attr("TCA_BPF_NAME") if message.get_attr("TCA_KIND") == "bpf" and options else None
        # Each is told twice: without options as the place of a priority, then as itself.
        found[message["info"] >> 16] = name or found.get(message["info"] >> 16, "")
    return found


def _remove_filter(ifindex: int, filter_: _Filter) -> None:
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with suppress(LabError, NetlinkError), IPRoute() as netlink:  # gone with its interface, or taken away by someone
        netlink.tc("del-filter", "bpf", ifindex, ":1", prio=filter_.priority, parent=_CLSACT[filter_.direction])
        if filter_.own_qdisc and not any(_filters(netlink, ifindex, way) for way in _CLSACT):
            netlink.tc("del", "clsact", ifindex)
