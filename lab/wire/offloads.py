"""Turning off what lets a host hand over frames that no wire could carry: super-frames, and checksums yet to be computed."""

import fcntl
import socket
import struct
from ctypes import addressof, create_string_buffer

from pyroute2 import IPRoute

from lab.errors import LabError
from lab.netns import inside

DEVICE = "eth0"
_SIOCETHTOOL = 0x8946
# include/uapi/linux/ethtool.h. Last first: what rests on another is turned off before it.
_COMMANDS = {"gro": 0x2C, "gso": 0x24, "tso": 0x1F, "tx": 0x17}


def turn_off(namespace: str) -> None:
    """Make a host send whole frames of at most its MTU. Raises `LabError` where the kernel refuses.

    Without this a frame on a veth may be 64 KB long and have no checksum, which no packet socket can pass on.
    """
    for name in _COMMANDS:
        switch(namespace, name, on=False)

    def forbid_super_frames() -> None:
        with IPRoute() as netlink:
            # TCP goes on building them, for the kernel to cut up behind the TC hooks, unless it may not.
            netlink.link("set", index=netlink.link_lookup(ifname=DEVICE)[0], gso_max_segs=1)

    inside(namespace, forbid_super_frames)


def switch(namespace: str, name: str, *, on: bool) -> None:
    """Turn an offload of a host's device on or off: `tx`, `tso`, `gso`, `gro`, as ethtool(8) calls them."""

    def ask() -> None:
        value = create_string_buffer(struct.pack("II", _COMMANDS[name], on))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, _SIOCETHTOOL, struct.pack("16sP8x", DEVICE.encode(), addressof(value)))

    try:
        inside(namespace, ask)
    except OSError as refusal:
        raise LabError(
            f"cannot switch {name} of {DEVICE} in {namespace} ({refusal.strerror}): use a bridge"
        ) from refusal
