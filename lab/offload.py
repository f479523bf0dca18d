"""Turning a device's offloads on and off: whether it takes packets that are longer than its wire's, and joins those that come."""

import ctypes
import fcntl
import socket
import struct

from lab.errors import LabError

_SIOCETHTOOL = 0x8946
# include/uapi/linux/ethtool.h: ETHTOOL_S...; what another one rests on comes after it when they are turned off.
_SET = {"gro": 0x2C, "gso": 0x24, "tso": 0x1F, "tx": 0x17}


def set_offloads(ifname: str, *names: str, on: bool) -> None:
    """Turn offloads (`gro`, `gso`, `tso`, `tx`; default: all) of a device of the calling thread's namespace on or off."""
    wanted = [name for name in _SET if not names or name in names]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for name in reversed(wanted) if on else wanted:
            value = ctypes.create_string_buffer(struct.pack("=II", _SET[name], on))
            request = struct.pack("16sP16x", ifname.encode(), ctypes.addressof(value))
            try:
                fcntl.ioctl(control, _SIOCETHTOOL, request)
            except OSError as error:
                raise LabError(f"cannot switch {name} of `{ifname}` ({error.strerror}): use another device") from error
