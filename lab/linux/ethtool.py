"""The ioctls of ethtool(8) for driver and offloads of a device in the calling thread's network namespace."""

import ctypes
import fcntl
import socket
import struct

from lab.errors import LabError

_SIOCETHTOOL = 0x8946
_GDRVINFO, _DRVINFO_SIZE = 3, 196
# ETHTOOL_S... of include/uapi/linux/ethtool.h, in the order for turning off: each before the offloads that it depends
# on.
_SET_COMMANDS = {"gro": 0x2C, "gso": 0x24, "tso": 0x1F, "tx": 0x17}


def driver(ifname: str) -> str:
    """Return the name of a device's driver. Raises `OSError` for a device without a driver, like loopback."""
    return _ioctl(ifname, struct.pack("=I", _GDRVINFO).ljust(_DRVINFO_SIZE, b"\0"))[4:36].rstrip(b"\0").decode()


def set_offloads(ifname: str, *names: str, on: bool) -> None:
    """Turn offloads (`gro`, `gso`, `tso`, `tx`; default: all) of a device on or off. Raises `LabError` on a refusal."""
    wanted = [name for name in _SET_COMMANDS if not names or name in names]
    for name in reversed(wanted) if on else wanted:
        try:
            _ioctl(ifname, struct.pack("=II", _SET_COMMANDS[name], on))
        except OSError as error:
            raise LabError(f"cannot switch {name} of `{ifname}` ({error.strerror}): use another device") from error


def _ioctl(ifname: str, request: bytes) -> bytes:
    buffer = ctypes.create_string_buffer(request, len(request))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCETHTOOL, struct.pack("16sP16x", ifname.encode(), ctypes.addressof(buffer)))
    return buffer.raw
