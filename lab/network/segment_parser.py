"""From the beginnings of frames to TCP segments: pure functions over whole arrays.

Understood are Ethernet, with or without VLAN tags, IPv4 with options, IPv6 without extension headers, TCP. Whatever else there
is, fragments behind the first included, is left out.
"""

import ipaddress
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

from lab.arrays import Integers, Mask, Rows
from lab.tcp import Flow

Bytes = NDArray[np.uint8]

# Addresses are 16 bytes in network order, IPv4 mapped into IPv6 (RFC 4291, 2.5.5.2).
SEGMENT = np.dtype(
    [
        ("frame", "<i8"),  # which of the frames that were parsed
        ("saddr", "V16"),
        ("daddr", "V16"),
        ("sport", "<u2"),
        ("dport", "<u2"),
        ("seq", "<u4"),
        ("ack", "<u4"),
        ("flags", "u1"),
        ("payload", "<u4"),  # bytes, from the IP header's length: padding does not count
    ]
)


class Flag(IntFlag):
    """RFC 9293, 3.1; RFC 3168."""

    FIN = 0x01
    SYN = 0x02
    RST = 0x04
    PSH = 0x08
    ACK = 0x10
    URG = 0x20
    ECE = 0x40
    CWR = 0x80


def parse(heads: Bytes, lengths: NDArray[np.uint32]) -> Rows:
    """Find the TCP segments (an array of `SEGMENT`) among frames: `heads` is frames x bytes, `lengths` their whole lengths."""
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
    # The TCP header proper must be there, in the frame and in its head.
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
    """Tell which segments were sent by the first end of `flow` to the second."""
    return (
        (found["saddr"] == packed(flow.laddr))
        & (found["daddr"] == packed(flow.raddr))
        & (found["sport"] == flow.lport)
        & (found["dport"] == flow.rport)
    )


def packed(address: str) -> np.void:
    """Write an address as `SEGMENT` has it."""
    parsed = ipaddress.ip_address(address)
    mapped = bytes(10) + b"\xff\xff" + parsed.packed if parsed.version == 4 else parsed.packed
    return np.void(mapped)


def has(found: Rows, flags: Flag) -> Mask:
    """Tell which segments have all of these flags."""
    return found["flags"] & flags == flags


def opens(found: Rows) -> Mask:
    """Tell which segments are a SYN without ACK."""
    return found["flags"] & (Flag.SYN | Flag.ACK) == Flag.SYN


def sequence_length(found: Rows) -> Integers:
    """How much sequence space each segment takes: its payload, and one each for SYN and FIN."""
    return found["payload"].astype(np.int64) + has(found, Flag.SYN) + has(found, Flag.FIN)


def retransmitted(found: Rows) -> Mask:
    """Tell which segments of *one* direction of *one* connection, in order of arrival, carry what an earlier one carried.

    Whatever takes sequence space counts, so a repeated SYN or FIN does and a repeated acknowledgement does not. A segment that is
    merely late is none: a host that sends from two processors can overtake itself.
    """
    seq = found["seq"].astype(np.int64)
    # Differences modulo 2**32, summed up, so that a sequence number that wraps goes on.
    steps = seq - np.concatenate((seq[:1], seq[:-1]))
    begins: Integers = np.cumsum((steps + 2**31) % 2**32 - 2**31)
    ends = begins + sequence_length(found)
    # All beginnings and ends cut the sequence space into pieces, each carried by some segments as a whole.
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
    """Find the EtherType behind at most two VLAN tags, and where the network header begins."""
    place = np.full(len(heads), 12)
    for _ in range(2):
        place = place + np.where(np.isin(_at(heads, place, 2), (0x8100, 0x88A8)), 4, 0)
    return _at(heads, place, 2), place + 2


def _at(heads: Bytes, place: Integers, width: int) -> Integers:
    """Read a big-endian number of `width` bytes at a place of its own in each row; beyond the head there are zeros."""
    rows = np.arange(len(heads))
    value = np.zeros(len(heads), np.int64)
    for index in range(width):
        column = place + index
        inside = column < heads.shape[1]
        byte = np.where(inside, heads[rows, np.where(inside, column, 0)], 0)
        value = value << 8 | byte
    return value


def _addresses(heads: Bytes, v4: Mask, place4: Integers, place6: Integers) -> Rows:
    """Read 16 bytes in each row, of which an IPv4 address fills the last four."""
    rows = np.arange(len(heads))[:, None]
    columns = np.where(v4, place4 - 12, place6)[:, None] + np.arange(16)
    addresses = heads[rows, columns]
    addresses[v4, :12] = np.frombuffer(bytes(10) + b"\xff\xff", np.uint8)
    return np.ascontiguousarray(addresses).view("V16").reshape(-1)
