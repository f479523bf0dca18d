"""What packets say about themselves, in words, and what the segments of a flow say together.

The words are the counterpart of bpf/include/packet_parser.inc.h; the rest is pure functions over arrays.
"""

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from lab.arrays import Integers


class Problem(IntEnum):
    """`enum problem` in bpf/include/packet_parser.inc.h: why a packet's ports are not known, or even less."""

    NONE = 0
    NOT_IP = 1
    TRUNCATED = 2
    MALFORMED = 3
    LATER_FRAGMENT = 4
    TOO_MANY_HEADERS = 5
    NO_PORTS = 6
    ENCRYPTED = 7


PROBLEMS = (
    "",
    "not IP",
    "truncated",
    "malformed",
    "later fragment",
    "too many extension headers",
    "a protocol without ports",
    "encrypted",
)
"""The same in words."""

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
"""TCP's control bits (RFC 9293, 3.1)."""

_FLAGS = {SYN: "SYN", FIN: "FIN", RST: "RST", PSH: "PSH", ACK: "ACK", URG: "URG", ECE: "ECE", CWR: "CWR"}
PROTOCOLS = {
    1: "ICMP",
    2: "IGMP",
    4: "IPIP",
    6: "TCP",
    17: "UDP",
    33: "DCCP",
    41: "IPv6",
    47: "GRE",
    50: "ESP",
    51: "AH",
    58: "ICMPv6",
    59: "NoNext",
    89: "OSPF",
    94: "IPIP",
    103: "PIM",
    108: "IPComp",
    112: "VRRP",
    115: "L2TP",
    132: "SCTP",
    136: "UDPLite",
    137: "MPLS",
}
"""IANA's registry of protocol numbers: what is met often."""

TCP = 6


def flags_text(flags: int) -> str:
    """`SYN,ACK`; nothing for a segment without any control bit."""
    return ",".join(name for bit, name in _FLAGS.items() if flags & bit)


def protocol_text(protocol: int) -> str:
    """Name a protocol behind IP (IANA's assigned numbers), or give its number."""
    return PROTOCOLS.get(protocol, str(protocol))


def distinct_bytes(seq: npt.NDArray[np.uint32], length: npt.NDArray[np.uint32]) -> int:
    """How many bytes of a stream some segments have brought, each counted once however often it was sent.

    `seq` are the sequence numbers of one direction of a connection in order of arrival, `length` the bytes of payload.
    Sequence numbers may wrap; from one segment to the next they differ by less than 2 GiB (RFC 9293, 3.4).
    """
    brings = length > 0
    start = unwrapped(seq)[brings]
    order = np.argsort(start, kind="stable")
    start = start[order]
    end = start + length[brings][order].astype(np.int64)
    covered = np.maximum.accumulate(end)
    before = np.concatenate([start[:1], covered[:-1]])
    return int(np.maximum(0, end - np.maximum(start, before)).sum())


def unwrapped(seq: npt.NDArray[np.uint32]) -> Integers:
    """Return sequence numbers as distances from the first one."""
    steps = np.diff(seq).view(np.int32).astype(np.int64)
    return np.concatenate([np.zeros(min(1, len(seq)), np.int64), np.cumsum(steps)])
