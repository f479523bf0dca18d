"""Turning off what lets a host hand over frames that no wire could carry: super-frames, and checksums yet to be computed."""

import errno
import fcntl
import socket
import struct
from ctypes import addressof, create_string_buffer

from pyroute2 import IPRoute

from lab.errors import LabError
from lab.netns import inside

_SIOCETHTOOL = 0x8946
# include/uapi/linux/ethtool.h. Last first: what rests on another is turned off before it.
_COMMANDS = {"gro": 0x2C, "gso": 0x24, "tso": 0x1F, "tx": 0x17}


def turn_off(namespace: str, device: str = "eth0") -> None:
    """Make a device send whole frames of at most its MTU. Raises `LabError` where the kernel refuses.

    Without this a frame on a veth may be 64 KB long and have no checksum, which no packet socket can pass on.
    """

    def ask() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            for command in _COMMANDS.values():
                value = create_string_buffer(struct.pack("II", command, 0))
                fcntl.ioctl(control, _SIOCETHTOOL, struct.pack("16sP8x", device.encode(), addressof(value)))
        with IPRoute() as netlink:
            (index,) = netlink.link_lookup(ifname=device)
            # TCP goes on building super-frames, for the kernel to cut up behind the TC hooks, unless it may not.
            netlink.link("set", index=index, gso_max_segs=1)

    try:
        inside(namespace, ask)
    except OSError as refusal:
        name = errno.errorcode.get(refusal.errno or 0, "?")
        raise LabError(f"cannot turn off the offloads of {device} in {namespace} ({name}): use a bridge") from refusal
