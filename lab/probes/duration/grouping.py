"""Which segment belongs to which connection: the events of the probe `duration`, sorted and grouped. Pure functions over arrays.

A connection begins with a SYN of a sequence number that its sender has not just used; a repeated one is a retransmission.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from lab.arrays import UNKNOWN, Events, Index, Integers, Mask
from lab.packet import ACK, RST, SYN


class Kind(IntEnum):
    """What a segment does."""

    FIN = 0
    SYN = 1
    SYN_ACK = 2
    RST = 3


@dataclass(frozen=True)
class Grouped:
    """Segments in order of flow and time, and their connections, counted from 0.

    `kind` and `connection` are of each segment, `by_client` says who sent it; `heads` is the index of each connection's first
    segment, and `replaced` marks the connections after which their flow was used again.
    """

    segments: Events
    kind: Integers
    connection: Index
    by_client: Mask
    heads: Index
    replaced: Mask

    @property
    def never(self) -> int:
        """The index that stands for no segment at all; it is behind every other."""
        return len(self.segments)

    def first(self, mask: Mask) -> Index:
        """Each connection's first segment of those in the mask, or `never`."""
        found = np.full(len(self.heads), self.never)
        chosen = np.flatnonzero(mask)[::-1]
        found[self.connection[chosen]] = chosen
        return found

    def time_of(self, which: Index) -> Integers:
        """When the segments with these indices came (nanoseconds), `UNKNOWN` for `never`."""
        return np.append(self.segments["time_ns"].astype(np.int64), UNKNOWN)[which]

    def alike(self) -> Integers:
        """Return the same number for segments of the same kind and sender in one connection."""
        return (self.connection * len(Kind) + self.kind) * 2 + self.by_client


def counted(segments: Events) -> Events:
    """Give each segment room for its repetitions: how many `copies` it stands for, and when the last one came."""
    known = [(name, segments.dtype[name]) for name in segments.dtype.names or ()]
    result = np.zeros(len(segments), [*known, ("copies", "i8"), ("last_ns", "i8")])
    for name, _ in known:
        result[name] = segments[name]
    result["copies"], result["last_ns"] = 1, segments["time_ns"]
    return result


def group(segments: Events, syn_timeout_ns: int) -> Grouped:
    """Find the connections in `segments` (as from `counted`).

    A SYN whose sequence number was used longer than `syn_timeout_ns` ago is a new one.
    """
    segments, flow, from_low = _by_flow(segments)
    kind = _kinds(segments["flags"])
    begins = _begins(segments, flow, from_low, kind, syn_timeout_ns)
    connection, heads = np.cumsum(begins) - 1, np.flatnonzero(begins)
    client_is_low = from_low[heads] ^ (kind[heads] == Kind.SYN_ACK)
    replaced = np.append(flow[heads][1:] == flow[heads][:-1], False)[: len(heads)]
    return Grouped(segments, kind, connection, from_low == client_is_low[connection], heads, replaced)


def _by_flow(segments: Events) -> tuple[Events, Index, Mask]:
    """Sort by flow and time; returns the segments, each one's flow, and whether it comes from the flow's lower endpoint."""
    source, destination = (np.ascontiguousarray(segments[name]).view(">u8") for name in ("saddr", "daddr"))
    ends = [
        (source[:, 0], destination[:, 0]),
        (source[:, 1], destination[:, 1]),
        (segments["sport"], segments["dport"]),
    ]
    from_low = np.zeros(len(segments), bool)
    for one, other in reversed(ends):
        from_low = (one < other) | ((one == other) & from_low)
    place = (
        segments["ifindex"].astype(np.uint64) << 32 | segments["vlan"].astype(np.uint64) << 16 | segments["inner_vlan"]
    )
    keys = [place, *(np.where(from_low, *pair) for pair in ends), *(np.where(from_low, *pair[::-1]) for pair in ends)]
    order = np.lexsort((segments["time_ns"], *keys))
    changes = np.zeros(len(segments), bool)
    for key in keys:
        changes[1:] |= key[order][1:] != key[order][:-1]
    return segments[order], np.cumsum(changes), from_low[order]


def _kinds(flags: npt.NDArray[np.uint8]) -> Integers:
    syn = np.where(flags & ACK, Kind.SYN_ACK, Kind.SYN)
    return np.where(flags & RST, Kind.RST, np.where(flags & SYN, syn, Kind.FIN))


def _begins(segments: Events, flow: Index, from_low: Mask, kind: Integers, syn_timeout_ns: int) -> Mask:
    """Tell for each segment whether it is the first of a connection: of its flow, or a SYN that is no retransmission."""
    begins = np.append(True, flow[1:] != flow[:-1])[: len(flow)]
    time_ns, last_ns = segments["time_ns"].astype(np.int64), segments["last_ns"]
    syns = np.flatnonzero(kind == Kind.SYN)
    by_sender = syns[np.lexsort((syns, from_low[syns], flow[syns]))]
    before, this = by_sender[:-1], by_sender[1:]
    again = (flow[this] == flow[before]) & (from_low[this] == from_low[before])
    again &= segments["seq"][this] == segments["seq"][before]
    again &= time_ns[this] - last_ns[before] <= syn_timeout_ns
    fresh = np.setdiff1d(syns, this[again])
    # Simultaneous open (RFC 9293, 3.5): the other side's SYN, when its own was not answered yet, opens the same connection.
    before = fresh - 1
    crosses = ~begins[fresh] & (kind[before] == Kind.SYN) & (from_low[before] != from_low[fresh])
    crosses &= time_ns[fresh] - last_ns[before] <= syn_timeout_ns
    position = np.arange(len(fresh))
    since_start = position - np.maximum.accumulate(np.where(crosses, 0, position))
    begins[fresh[since_start % 2 == 0]] = True  # of several that cross each other in a row, every second one
    return begins
