"""A parser of TCP segments from the beginnings of frames: pure functions over whole arrays.

It reads Ethernet with at most two VLAN tags, IPv4 with options, IPv6 without extension headers, and TCP. It skips all
other frames and later fragments.
"""

import numpy as np
from numpy.lib.recfunctions import repack_fields
from numpy.typing import NDArray

from lab.arrays import Integers, Mask, Rows
from lab.packet import ACK, FIN, SYN
from lab.tcp import MAPPED, Flow, address_bytes

Bytes = NDArray[np.uint8]

# Addresses are 16 bytes in network order, IPv4 mapped into IPv6 (RFC 4291, 2.5.5.2).
SEGMENT = np.dtype(
    [
        ("frame", "<i8"),  # index of the frame in the input
        ("saddr", "V16"),
        ("daddr", "V16"),
        ("sport", "<u2"),
        ("dport", "<u2"),
        ("seq", "<u4"),
        ("ack", "<u4"),
        ("flags", "u1"),
        ("payload", "<u4"),  # bytes, by the length in the IP header, so without padding
    ]
)
_FLOW = ["saddr", "sport", "daddr", "dport"]


def parse(heads: Bytes, lengths: NDArray[np.uint32]) -> Rows:
    """Return the TCP segments, an array of `SEGMENT`, of frames.

    `heads` has the shape (frames, bytes) and holds the beginning of each frame; `lengths` are the full lengths of the
    frames.
    """
    kind, network = _network(heads)
    v4 = (kind == 0x0800) & (_at(heads, network, 1) >> 4 == 4)
    v6 = (kind == 0x86DD) & (_at(heads, network, 1) >> 4 == 6)
    header = np.where(v4, (_at(heads, network, 1) & 15) * 4, 40)
    protocol = np.where(v4, _at(heads, network + 9, 1), _at(heads, network + 6, 1))
    later_fragment = v4 & (_at(heads, network + 6, 2) & 0x1FFF != 0)
    total = np.where(v4, _at(heads, network + 2, 2), 40 + _at(heads, network + 4, 2))
    transport = network + header
    offset = (_at(heads, transport + 12, 1) >> 4) * 4
    payload = total - header - offset
    is_tcp = (v4 | v6) & (protocol == 6) & ~later_fragment & (header >= 20) & (offset >= 20) & (payload >= 0)
    # The fixed TCP header must be inside the frame and inside its head.
    is_tcp &= transport + 20 <= np.minimum(lengths, heads.shape[1])
    chosen = np.flatnonzero(is_tcp)
    heads, network, transport = heads[chosen], network[chosen], transport[chosen]
    found = np.zeros(len(chosen), SEGMENT)
    found["frame"] = chosen
    found["payload"] = payload[chosen]
    for name, place, width in (("sport", 0, 2), ("dport", 2, 2), ("seq", 4, 4), ("ack", 8, 4), ("flags", 13, 1)):
        found[name] = _at(heads, transport + place, width)
    for name, place4, place6 in (("saddr", 12, 8), ("daddr", 16, 24)):
        found[name] = _addresses(heads, v4[chosen], network + place4, network + place6)
    return found


def belongs(found: Rows, flow: Flow) -> Mask:
    """Return the segments from the local to the remote end of `flow`."""
    return (
        (found["saddr"] == packed(flow.laddr))
        & (found["daddr"] == packed(flow.raddr))
        & (found["sport"] == flow.lport)
        & (found["dport"] == flow.rport)
    )


def packed(address: str) -> np.void:
    """Write an address as `SEGMENT` has it."""
    return np.void(address_bytes(address))


def by_flow(found: Rows) -> dict[bytes, Rows]:
    """Return the segments of each flow by its `key_of`. Their order is kept; `found` has at least the fields of the flow."""
    ends = repack_fields(found[_FLOW])
    flows, of = np.unique(ends.view(f"V{ends.dtype.itemsize}"), return_inverse=True)
    order = np.argsort(of, kind="stable")
    parts = np.split(found[order], np.searchsorted(of[order], np.arange(1, len(flows))))
    return {flow.tobytes(): part for flow, part in zip(flows, parts, strict=False)}


def key_of(flow: Flow) -> bytes:
    """Return the key of the segments from the local to the remote end of a flow."""
    segment = np.zeros(1, SEGMENT)
    segment["saddr"], segment["daddr"] = packed(flow.laddr), packed(flow.raddr)
    segment["sport"], segment["dport"] = flow.lport, flow.rport
    return bytes(repack_fields(segment[_FLOW]).tobytes())


def has(found: Rows, flags: int) -> Mask:
    """Return the segments that have all of these flags."""
    return found["flags"] & flags == flags


def opens(found: Rows) -> Mask:
    """Return the segments with SYN and without ACK."""
    return found["flags"] & (SYN | ACK) == SYN


def sequence_length(found: Rows) -> Integers:
    """Return the sequence space of each segment: its payload, and one each for SYN and FIN."""
    return found["payload"].astype(np.int64) + has(found, SYN) + has(found, FIN)


def ends(found: Rows) -> Integers:
    """Return the position behind each segment, counted on from its sequence number: it can be 2**32 or more."""
    return found["seq"].astype(np.int64) + sequence_length(found)


def end_of(segment: np.void) -> int:
    """Return the sequence number behind a segment."""
    return int(ends(np.atleast_1d(segment))[0]) % 2**32


def reaches(positions: Integers, sequence: int) -> Mask:
    """Return which positions are at a sequence number or behind it (RFC 9293, 3.4)."""
    return (positions.astype(np.int64) - sequence) % 2**32 < 2**31


def covers(found: Rows, sequence: int) -> Mask:
    """Return which segments acknowledge everything before a sequence number."""
    return has(found, ACK) & reaches(found["ack"], sequence)


def first(found: Rows, which: Mask) -> "np.void | None":
    """Return the first of these segments, None if there is none."""
    index = which.argmax() if len(which) else 0
    return found[index] if len(which) and which[index] else None


def joined(found: Rows, frames: Rows, kind: "np.dtype[np.void]") -> Rows:
    """Return rows of `kind`: its fields of the segments, and those of their frames, of which `found` was parsed."""
    rows = np.zeros(len(found), kind)
    for name in kind.names or ():
        rows[name] = found[name] if name in (found.dtype.names or ()) else frames[name][found["frame"]]
    return rows


def retransmitted(found: Rows) -> Mask:
    """Return the segments that repeat sequence space of an earlier one.

    `found` are the segments of one direction of one connection, in order of arrival. A repeated SYN or FIN counts,
    since it takes sequence space; a repeated acknowledgement does not. A late segment does not count either: a host
    that sends from two CPUs can reorder its own segments.
    """
    seq = found["seq"].astype(np.int64)
    # Sums of differences modulo 2**32 unwrap the sequence numbers.
    steps = seq - np.concatenate((seq[:1], seq[:-1]))
    begins: Integers = np.cumsum((steps + 2**31) % 2**32 - 2**31)
    ends = begins + sequence_length(found)
    if (begins[1:] >= ends[:-1]).all():  # in order, as nearly always
        return np.zeros(len(found), bool)
    # All beginnings and ends cut the sequence space into pieces. Each piece is either entirely in a segment or outside
    # it.
    cuts = np.unique(np.concatenate((begins, ends)))
    first = np.searchsorted(cuts, begins)
    pieces = np.searchsorted(cuts, ends) - first
    carrier = np.repeat(np.arange(len(found)), pieces)
    piece = np.arange(len(carrier)) + np.repeat(first - (np.cumsum(pieces) - pieces), pieces)
    first_carrier = np.full(len(cuts), len(found))
    np.minimum.at(first_carrier, piece, carrier)
    again = np.zeros(len(found), bool)
    again[carrier[first_carrier[piece] < carrier]] = True
    return again


def _network(heads: Bytes) -> tuple[Integers, Integers]:
    """Return the ethertype after at most two VLAN tags, and the offset of the network header."""
    place = np.full(len(heads), 12)
    for _ in range(2):
        place = place + np.where(np.isin(_at(heads, place, 2), (0x8100, 0x88A8)), 4, 0)
    return _at(heads, place, 2), place + 2


def _at(heads: Bytes, place: Integers, width: int) -> Integers:
    """Return the big-endian number of `width` bytes at offset `place` of each row. Bytes after the head read as 0."""
    rows = np.arange(len(heads))
    value = np.zeros(len(heads), np.int64)
    for index in range(width):
        column = place + index
        inside = column < heads.shape[1]
        byte = np.where(inside, heads[rows, np.where(inside, column, 0)], 0)
        value = value << 8 | byte
    return value


def _addresses(heads: Bytes, v4: Mask, place4: Integers, place6: Integers) -> Rows:
    """Return the addresses at these offsets as 16 bytes, IPv4 mapped into IPv6."""
    rows = np.arange(len(heads))[:, None]
    columns = np.where(v4, place4 - 12, place6)[:, None] + np.arange(16)
    addresses = heads[rows, columns]
    addresses[v4, :12] = np.frombuffer(MAPPED, np.uint8)
    return np.ascontiguousarray(addresses).view("V16").reshape(-1)
