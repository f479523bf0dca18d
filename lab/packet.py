"""Names for numbers in packets (as in bpf/include/packet_parser.inc.h), and sums over a flow's segments."""

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lab.arrays import Integers


class Problem(IntEnum):
    """`enum problem` in bpf/include/packet_parser.inc.h: why the parser does not know a packet's ports."""

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
"""Text of each `Problem`, by number."""

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
"""Common protocol numbers (IANA, Assigned Internet Protocol Numbers)."""

TCP = 6


def flags_text(flags: int) -> str:
    """Return TCP control bits as text: `SYN,ACK`; empty if there are none."""
    return ",".join(name for bit, name in _FLAGS.items() if flags & bit)


def protocol_text(protocol: int) -> str:
    """Return the name of an IP protocol number, or the number if it has no name in `PROTOCOLS`."""
    return PROTOCOLS.get(protocol, str(protocol))


def distinct_bytes(seq: "npt.NDArray[np.uint32]", length: "npt.NDArray[np.uint32]") -> int:
    """Return how many different bytes of a stream some segments carried; retransmitted bytes count once.

    `seq` are the sequence numbers of one direction of a connection in order of arrival, `length` the bytes of payload.
    Sequence numbers may wrap; two segments in succession differ by less than 2 GiB (RFC 9293, 3.4).
    """
    import numpy as np

    has_data = length > 0
    start = unwrapped(seq)[has_data]
    order = np.argsort(start, kind="stable")
    start = start[order]
    end = start + length[has_data][order].astype(np.int64)
    covered = np.maximum.accumulate(end)
    before = np.concatenate([start[:1], covered[:-1]])
    return int(np.maximum(0, end - np.maximum(start, before)).sum())


def unwrapped(seq: "npt.NDArray[np.uint32]") -> "Integers":
    """Return sequence numbers as distances from the first one."""
    import numpy as np

    steps = np.diff(seq).view(np.int32).astype(np.int64)
    return np.concatenate([np.zeros(min(1, len(seq)), np.int64), np.cumsum(steps)])
