"""Statistics of an interface's root queueing discipline."""

import struct
from typing import NamedTuple

from lab.linux import rtnetlink

_RTM_NEWQDISC, _RTM_GETQDISC = 36, 38
_QDISC = struct.Struct("=BxxxiIII")  # struct tcmsg
_KIND, _STATS2, _STATS_QUEUE = 1, 7, 3
_QUEUE = struct.Struct("=5I")  # struct gnet_stats_queue: qlen, backlog, drops, requeues, overlimits
_ROOT = 0xFFFFFFFF  # TC_H_ROOT
_WRAPS_AT = 1 << 32


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
    for kind, message in rtnetlink.ask(_RTM_GETQDISC, _QDISC.pack(0, 0, 0, 0, 0), dump=True):
        _, index, handle, parent, _ = _QDISC.unpack_from(message)
        if kind != _RTM_NEWQDISC or (index, parent) != (ifindex, _ROOT):
            continue
        found = rtnetlink.attributes(message[_QDISC.size :])
        queue = rtnetlink.attributes(found.get(_STATS2, b"")).get(_STATS_QUEUE)
        if queue:
            waiting, _, drops, _, _ = _QUEUE.unpack_from(queue)
            return Discipline(found[_KIND].rstrip(b"\0").decode(), handle, drops, waiting)
    return None
