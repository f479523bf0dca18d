"""What ethtool(8) asks of a device and sets: its driver, and its offloads. In the calling thread's network namespace."""

import ctypes
import fcntl
import socket
import struct

from lab.errors import LabError

_SIOCETHTOOL = 0x8946
_GDRVINFO, _DRVINFO_SIZE = 3, 196
# include/uapi/linux/ethtool.h: ETHTOOL_S...; what another one rests on comes after it when they are turned off.
_SET = {"gro": 0x2C, "gso": 0x24, "tso": 0x1F, "tx": 0x17}


def driver(ifname: str) -> str:
    """Return the name of a device's driver. `OSError` for a device that has none, as the loopback."""
    return _ask(ifname, struct.pack("=I", _GDRVINFO).ljust(_DRVINFO_SIZE, b"\0"))[4:36].rstrip(b"\0").decode()


def set_offloads(ifname: str, *names: str, on: bool) -> None:
    """Turn offloads (`gro`, `gso`, `tso`, `tx`; default: all) of a device on or off. `LabError` where that is refused."""
    wanted = [name for name in _SET if not names or name in names]
    for name in reversed(wanted) if on else wanted:
        try:
            _ask(ifname, struct.pack("=II", _SET[name], on))
        except OSError as error:
            raise LabError(f"cannot switch {name} of `{ifname}` ({error.strerror}): use another device") from error


def _ask(ifname: str, question: bytes) -> bytes:
    buffer = ctypes.create_string_buffer(question, len(question))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCETHTOOL, struct.pack("16sP16x", ifname.encode(), ctypes.addressof(buffer)))
    return buffer.raw
