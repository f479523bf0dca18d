"""From events of the probe `duration` to segments grouped by connection: pure functions over arrays.

A connection begins with a SYN whose sequence number differs from the sender's previous SYN. A SYN with the same number
is a retransmission. Where no SYN passes, SYN-ACKs take their place. What does not live here: the effect of each segment
on its connection (lab/probes/duration/measure.py).
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from lab.arrays import UNKNOWN, Events, Index, Integers, Mask, extended
from lab.packet import ACK, RST, SYN


class Kind(IntEnum):
    """Kind of a segment, by its flags."""

    FIN = 0
    SYN = 1
    SYN_ACK = 2
    RST = 3


@dataclass(frozen=True)
class Grouped:
    """Segments in order of flow and time, with their connections, numbered from 0.

    Per segment: `kind`, `connection`, `by_client` (sent by the client) and `by_server`. A socket that is connected to
    itself is both. Per connection: `heads`, the index of the first segment, and `replaced`, true if a later connection
    has the same flow.
    """

    segments: Events
    kind: Integers
    connection: Index
    by_client: Mask
    by_server: Mask
    heads: Index
    replaced: Mask

    @property
    def never(self) -> int:
        """Index that means no segment; it is greater than every index of a segment."""
        return len(self.segments)

    def first(self, mask: Mask) -> Index:
        """Return the index of each connection's first segment in the mask, or `never`."""
        found = np.full(len(self.heads), self.never)
        chosen = np.flatnonzero(mask)[::-1]
        found[self.connection[chosen]] = chosen
        return found

    def time_of(self, which: Index) -> Integers:
        """Return the times of these segments in nanoseconds, `UNKNOWN` for `never`."""
        return np.append(self.segments["time_ns"].astype(np.int64), UNKNOWN)[which]

    def alike(self) -> Integers:
        """Return a number for each segment that is equal for segments of the same connection, kind and sender."""
        return (self.connection * len(Kind) + self.kind) * 2 + self.by_client


def counted(segments: Events) -> Events:
    """Add the fields `copies` (number of segments that a row stands for) and `last_ns` (time of the last one)."""
    result = extended(segments, copies="i8", last_ns="i8")
    result["copies"], result["last_ns"] = 1, segments["time_ns"]
    return result


def group(segments: Events, syn_timeout_ns: int) -> Grouped:
    """Group `segments` (from `counted`) by connection.

    A SYN with the same sequence number begins a new connection if the previous SYN is older than `syn_timeout_ns`.
    """
    segments, flow, from_low = _by_flow(segments)
    kind = _kinds(segments["flags"])
    begins = _begins(segments, flow, from_low, kind, syn_timeout_ns)
    connection, heads = np.cumsum(begins) - 1, np.flatnonzero(begins)
    client_is_low = from_low[heads] ^ (kind[heads] == Kind.SYN_ACK)
    replaced = np.append(flow[heads][1:] == flow[heads][:-1], False)[: len(heads)]
    by_client = from_low == client_is_low[connection]
    to_itself = (segments["sport"] == segments["dport"]) & (segments["saddr"] == segments["daddr"]).all(axis=1)
    return Grouped(segments, kind, connection, by_client | to_itself, ~by_client | to_itself, heads, replaced)


def _by_flow(segments: Events) -> tuple[Events, Index, Mask]:
    """Return the segments in order of flow and time, their flow numbers, and whether the lower endpoint sent them."""
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
    return segments.take(order), np.cumsum(changes), from_low[order]


def _kinds(flags: npt.NDArray[np.uint8]) -> Integers:
    syn = np.where(flags & ACK, Kind.SYN_ACK, Kind.SYN)
    return np.where(flags & RST, Kind.RST, np.where(flags & SYN, syn, Kind.FIN))


def _begins(segments: Events, flow: Index, from_low: Mask, kind: Integers, syn_timeout_ns: int) -> Mask:
    """Mark the first segment of each connection: the first of a flow, or a SYN that is not a retransmission."""
    begins = np.append(True, flow[1:] != flow[:-1])[: len(flow)]
    time_ns, last_ns = segments["time_ns"].astype(np.int64), segments["last_ns"]
    syns = np.flatnonzero(kind == Kind.SYN)
    by_sender = syns[np.lexsort((syns, from_low[syns], flow[syns]))]
    before, this = by_sender[:-1], by_sender[1:]
    again = (flow[this] == flow[before]) & (from_low[this] == from_low[before])
    again &= segments["seq"][this] == segments["seq"][before]
    again &= time_ns[this] - last_ns[before] <= syn_timeout_ns
    fresh = np.setdiff1d(syns, this[again])
    # Simultaneous open (RFC 9293, 3.5): a SYN belongs to the same connection if it crosses the other side's unanswered
    # SYN.
    before = fresh - 1
    crosses = ~begins[fresh] & (kind[before] == Kind.SYN) & (from_low[before] != from_low[fresh])
    crosses &= time_ns[fresh] - last_ns[before] <= syn_timeout_ns
    position = np.arange(len(fresh))
    since_start = position - np.maximum.accumulate(np.where(crosses, 0, position))
    begins[fresh[since_start % 2 == 0]] = True  # in a row of crossing SYNs, every second one begins a connection
    # If no SYN passes here, a SYN-ACK begins a connection, unless it answers the same SYN as the one before.
    first_syn = np.full(flow[-1] + 1 if len(flow) else 0, len(flow))
    first_syn[flow[syns[::-1]]] = syns[::-1]
    answers = np.flatnonzero(kind == Kind.SYN_ACK)
    answers = answers[answers < first_syn[flow[answers]]]
    before, this = answers[:-1], answers[1:]
    again = (flow[this] == flow[before]) & (from_low[this] == from_low[before])
    again &= segments["ack"][this] == segments["ack"][before]
    begins[np.setdiff1d(answers, this[again])] = True
    return begins
