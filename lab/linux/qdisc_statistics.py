"""Statistics of an interface's root queueing discipline, read by rtnetlink.

pyroute2 does the same and takes a tenth of a second to import, which a live tool has not before it is ready.
"""

import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

_HEADER, _TCMSG, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BxxxiIII"), struct.Struct("=HH")
_ERROR, _DONE, _NEW_QDISC, _GET_QDISC, _REQUEST_DUMP = 2, 3, 36, 38, 0x301
_KIND, _STATS2, _STATS_QUEUE = 1, 7, 3
_QUEUE = struct.Struct("=5I")  # struct gnet_stats_queue: qlen, backlog, drops, requeues, overlimits
_ROOT = 0xFFFFFFFF  # TC_H_ROOT
_WRAPS_AT = 1 << 32
_LARGEST_DATAGRAM = 1 << 16


class Discipline(NamedTuple):
    """A root queueing discipline: its name, its handle, and how many packets it has dropped and holds."""

    kind: str
    handle: int
    drops: int
    waiting: int

    def dropped_since(self, before: "Discipline | None") -> int:
        """Return the drops since an earlier reading of the same interface; the counter has 32 bits."""
        if before is None or (before.kind, before.handle) != (self.kind, self.handle):
            return self.drops  # another discipline, which counts from 0
        return (self.drops - before.drops) % _WRAPS_AT


def root_discipline(ifindex: int) -> Discipline | None:
    """Return the root queueing discipline of an interface in the calling thread's namespace, None if it has none."""
    for kind, message in _dump():
        _, index, handle, parent, _ = _TCMSG.unpack_from(message)
        if kind != _NEW_QDISC or (index, parent) != (ifindex, _ROOT):
            continue
        attributes = dict(_attributes(message[_TCMSG.size :]))
        queue = dict(_attributes(attributes.get(_STATS2, b""))).get(_STATS_QUEUE)
        if queue:
            waiting, _, drops, _, _ = _QUEUE.unpack_from(queue)
            return Discipline(attributes[_KIND].rstrip(b"\0").decode(), handle, drops, waiting)
    return None


def _dump() -> Iterator[tuple[int, bytes]]:
    """Yield type and content of each message of a dump of all queueing disciplines."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        length = _HEADER.size + _TCMSG.size
        netlink.send(_HEADER.pack(length, _GET_QDISC, _REQUEST_DUMP, 1, 0) + _TCMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
        while True:
            data = netlink.recv(_LARGEST_DATAGRAM)
            while data:
                size, kind, *_ = _HEADER.unpack_from(data)
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    (error,) = struct.unpack_from("=i", data, _HEADER.size)
                    raise OSError(-error, os.strerror(-error))
                yield kind, data[_HEADER.size : size]
                data = data[_aligned(size) :]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data)
        if size < _ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, data[_ATTRIBUTE.size : size]  # NLA_TYPE_MASK
        data = data[_aligned(size) :]


def _aligned(size: int) -> int:
    return -(-size // 4) * 4
