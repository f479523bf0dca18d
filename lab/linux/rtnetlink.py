"""Requests to rtnetlink, rtnetlink(7), in the calling thread's network namespace.

pyroute2 does the same and takes a tenth of a second to import, which a live tool has not before it is ready.
"""

import os
import socket
import struct
from collections.abc import Iterator

_HEADER, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")  # struct nlmsghdr, struct rtattr
_ERROR, _DONE, _REQUEST, _DUMP = 2, 3, 0x1, 0x300
_LARGEST_DATAGRAM = 1 << 16


def ask(kind: int, body: bytes, *, dump: bool = False) -> Iterator[tuple[int, bytes]]:
    """Send a request (`RTM_GET...`) and yield type and content of each message of the answer; with `dump` of all objects.

    Raises `OSError` with the error that the kernel answers.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        flags = _REQUEST | (_DUMP if dump else 0)
        netlink.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)
        while True:
            data = netlink.recv(_LARGEST_DATAGRAM)
            while data:
                size, answered, *_ = _HEADER.unpack_from(data)
                if answered == _DONE:
                    return
                if answered == _ERROR:
                    (error,) = struct.unpack_from("=i", data, _HEADER.size)
                    raise OSError(-error, os.strerror(-error))
                yield answered, data[_HEADER.size : size]
                data = data[_aligned(size) :]
            if not dump:
                return


def attribute(kind: int, value: bytes) -> bytes:
    """Return an attribute as it stands in a message."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the attributes of a message, or of an attribute that holds others, by their type."""
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data)
        if size < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = data[_ATTRIBUTE.size : size]  # NLA_TYPE_MASK
        data = data[_aligned(size) :]
    return found


def _aligned(size: int) -> int:
    return -(-size // 4) * 4
