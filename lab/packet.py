"""What packets say about themselves, in words, and what the segments of a flow say together.

The words are the counterpart of bpf/include/packet_parser.inc.h; the rest is pure functions over arrays.
"""

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from lab.arrays import Events, Integers
from lab.tcp import UNSPECIFIED, Flow


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
_UNSPECIFIED: set[str | int] = {*UNSPECIFIED, 0}  # of a socket that was never connected


def flags_text(flags: int) -> str:
    """`SYN,ACK`; nothing for a segment without any control bit."""
    return ",".join(name for bit, name in _FLAGS.items() if flags & bit)


def protocol_text(protocol: int) -> str:
    """Name a protocol behind IP (IANA's assigned numbers), or give its number."""
    return PROTOCOLS.get(protocol, str(protocol))


def by_flow(packets: Events) -> dict[tuple[int, Flow], Events]:
    """TCP's packets of each flow at each interface, in the order given; by ifindex, and flow with the sender first."""
    segments = packets[(packets["problem"] == 0) & (packets["protocol"] == TCP)]
    if not len(segments):
        return {}
    names = ("saddr", "daddr", "sport", "dport", "ifindex")
    columns = [np.ascontiguousarray(segments[name]).view(np.uint8).reshape(len(segments), -1) for name in names]
    keys = np.concatenate(columns, axis=1)
    _, first, number = np.unique(
        np.ascontiguousarray(keys).view(f"V{keys.shape[1]}")[:, 0], return_index=True, return_inverse=True
    )
    order = np.argsort(number, kind="stable")
    groups = np.split(segments[order], np.searchsorted(number[order], np.arange(1, len(first))))
    return {(int(group["ifindex"][0]), Flow.of(group[0])): group for group in groups}


def packets_of(flows: dict[tuple[int, Flow], Events], ifindex: int, flow: Flow) -> list[Events]:
    """Return what came of a flow to an interface, of `by_flow`; an unspecified address or port stands for any."""
    if (ifindex, flow) in flows:
        return [flows[ifindex, flow]]
    if not _UNSPECIFIED & set(flow):
        return []
    return [
        packets
        for (place, seen), packets in flows.items()
        if place == ifindex and all(known in (part, *_UNSPECIFIED) for part, known in zip(seen, flow, strict=True))
    ]


def distinct_bytes(seq: npt.NDArray[np.uint32], length: npt.NDArray[np.uint32]) -> int:
    """How many bytes of a stream some segments have brought, each counted once however often it was sent.

    `seq` are the sequence numbers of one direction of a connection in order of arrival, `length` the bytes of payload.
    Sequence numbers may wrap; from one segment to the next they differ by less than 2 GiB (RFC 9293, 3.4).
    """
    brings = length > 0
    start = _unwrapped(seq)[brings]
    order = np.argsort(start, kind="stable")
    start = start[order]
    end = start + length[brings][order].astype(np.int64)
    covered = np.maximum.accumulate(end)
    before = np.concatenate([start[:1], covered[:-1]])
    return int(np.maximum(0, end - np.maximum(start, before)).sum())


def arrival_of_byte(seq: npt.NDArray[np.uint32], length: npt.NDArray[np.uint32], byte: int) -> int | None:
    """Index of the segment that first brought a byte, counted from the first SYN's successor; None when none did.

    `seq` and `length` as for `distinct_bytes`, with the SYN as the first segment.
    """
    offset = _unwrapped(seq) - 1
    offset[:1] = 0  # the SYN itself takes the number before the stream
    brings = (length > 0) & (offset <= byte) & (byte < offset + length.astype(np.int64))
    found = np.flatnonzero(brings)
    return int(found[0]) if len(found) else None


def _unwrapped(seq: npt.NDArray[np.uint32]) -> Integers:
    """Return sequence numbers as distances from the first one."""
    steps = np.diff(seq).view(np.int32).astype(np.int64)
    return np.concatenate([np.zeros(min(1, len(seq)), np.int64), np.cumsum(steps)])
