"""Attaching XDP and TC programs to a network interface.

What lives here: BPF links for both hooks, and a filter on a clsact qdisc where TC has no links (before Linux 6.6). The
kernel detaches a link when the process ends; a filter and its qdisc are removed by the lab. What does not: finding the
interface (`interface.py`).
"""

import errno
import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, NamedTuple

from lab.ebpf.interface import Device
from lab.errors import LabError
from lab.linux import ethtool
from lab.linux.bpf import AttachType, link_create

if TYPE_CHECKING:
    from pyroute2 import IPRoute

_TCX = {"ingress": AttachType.TCX_INGRESS, "egress": AttachType.TCX_EGRESS}
_CLSACT = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}  # TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS, _EGRESS)
_XDP_FLAGS = {"generic": 1 << 1, "native": 1 << 2}  # XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE
_NO_SUCH_MODE = (
    errno.EINVAL,
    errno.EOPNOTSUPP,
    errno.ERANGE,
    errno.ENOTSUP,
)  # errors of drivers without this mode of XDP
_FIRST_PRIORITY = 0x1AB
_PREFIX = "lab_"  # names of the lab's filters


def attach_xdp(device: Device, fd: int, links: ExitStack) -> str:
    """Attach an XDP program until `links` is closed; return the mode that the device accepted.

    Raises `LabError` when the device has an XDP program already, or does not support the mode.
    """
    mode = _first_mode(device)
    try:
        link = _xdp_link(device, fd, mode)
    except OSError as error:
        if error.errno not in _NO_SUCH_MODE:
            raise
        if device.mode != "auto" or mode != "native":
            raise LabError(f"`{device.ifname}` cannot have {mode} XDP ({error.strerror}): try another mode") from error
        mode = "generic"
        link = _xdp_link(device, fd, mode)
    links.callback(os.close, link)
    return mode


def attach_tc(device: Device, fd: int, direction: str, links: ExitStack) -> str:
    """Attach a TC program at `ingress` or `egress` until `links` is closed; return the mechanism: `tcx` or `clsact`."""
    try:
        link = device.inside(lambda: link_create(fd, device.ifindex, _TCX[direction]))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        added = device.inside(lambda: _add_filter(device.ifindex, fd, direction))
        links.callback(_remove_filter_of, device, added)
        return "clsact"
    links.callback(os.close, link)
    return "tcx"


def _xdp_link(device: Device, fd: int, mode: str) -> int:
    try:
        return device.inside(lambda: link_create(fd, device.ifindex, AttachType.XDP, _XDP_FLAGS[mode]))
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EEXIST):
            raise
        from lab.ebpf.xdp_owner import xdp_owner  # noqa: PLC0415 (with pyroute2)

        raise LabError(
            f"`{device.ifname}` has an XDP program already, {xdp_owner(device)}: "
            "observe the interface at TC, after that program (--mode tc), or end its owner"
        ) from error


# Drivers that are observed by generic XDP. A bond gives a native program to the devices below it, whose index the frames then have.
_GENERIC = ("veth", "bonding", "")


def _first_mode(device: Device) -> str:
    """Return the XDP mode to try first; see `interface.MODES`."""
    if device.mode != "auto":
        return device.mode
    return "generic" if device.inside(lambda: _driver(device.ifname)) in _GENERIC else "native"


def _driver(ifname: str) -> str:
    """Return the name of an interface's driver in the calling thread's namespace; "" without a driver (loopback)."""
    with suppress(OSError):
        return ethtool.driver(ifname)
    return ""


class _Filter(NamedTuple):
    """A filter of the lab. With `own_qdisc` the removal of the last filter removes the qdisc too."""

    direction: str
    priority: int
    own_qdisc: bool


def _add_filter(ifindex: int, fd: int, direction: str) -> _Filter:
    """Add a filter behind the existing ones, and a clsact qdisc if the interface has none."""
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        if any(qdisc.get_attr("TCA_KIND") == "clsact" for qdisc in netlink.get_qdiscs(ifindex)):
            filters = {hook: _filters(netlink, ifindex, hook) for hook in _CLSACT}
            names = [name for of_hook in filters.values() for name in of_hook.values()]
            # The lab added the qdisc if it has only filters of the lab.
            own_qdisc = bool(names) and all(name.startswith(_PREFIX) for name in names)
        else:
            netlink.tc("add", "clsact", ifindex)
            filters, own_qdisc = {direction: {}}, True
        priority = max([_FIRST_PRIORITY, *(taken + 1 for taken in filters[direction])])
        options = {"fd": fd, "name": f"{_PREFIX}{direction}", "parent": _CLSACT[direction], "direct_action": True}
        netlink.tc("add-filter", "bpf", ifindex, ":1", prio=priority, **options)
    return _Filter(direction, priority, own_qdisc)


def _filters(netlink: "IPRoute", ifindex: int, direction: str) -> dict[int, str]:
    """Return the filters at one hook of a clsact qdisc by priority: the name of a BPF filter, "" for another kind."""
    found: dict[int, str] = {}
    for message in netlink.get_filters(index=ifindex, parent=_CLSACT[direction]):
        options = message.get_attr("TCA_OPTIONS")
        name = options.get_attr("TCA_BPF_NAME") if message.get_attr("TCA_KIND") == "bpf" and options else None
        # The kernel lists each filter twice: its priority without options, and the filter itself.
        found[message["info"] >> 16] = name or found.get(message["info"] >> 16, "")
    return found


def _remove_filter_of(device: Device, added: _Filter) -> None:
    with suppress(LabError):  # the namespace has gone, and the filter with it
        device.inside(lambda: _remove_filter(device.ifindex, added))


def _remove_filter(ifindex: int, added: _Filter) -> None:
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with (
        suppress(LabError, NetlinkError),
        IPRoute() as netlink,
    ):  # the interface has gone, or another process removed it
        netlink.tc("del-filter", "bpf", ifindex, ":1", prio=added.priority, parent=_CLSACT[added.direction])
        if added.own_qdisc and not any(_filters(netlink, ifindex, hook) for hook in _CLSACT):
            netlink.tc("del", "clsact", ifindex)
