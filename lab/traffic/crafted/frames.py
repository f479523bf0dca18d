"""Frames that say what they are: the bytes, and what a probe must read in them, or why it cannot.

The truth of a frame is taken from the layers that it is built of, never by parsing it. What lives here: how a frame is made.
What does not: which frames are worth making (`lab.traffic.crafted.unusual_frames`).
"""

import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.ipsec import ESP
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet
from scapy.utils import checksum

from lab.network.topology import CLIENT_MAC, SERVER_MAC
from lab.packet import Problem

SHORTEST = 60
"""Bytes of an Ethernet frame at least, without its checksum; a shorter one is padded."""

_UNREADABLE = (Problem.TRUNCATED, Problem.MALFORMED, Problem.TOO_MANY_HEADERS)
_WITH_PORTS = {TCP: 20, UDP: 8}
_NAMES: dict[type, str] = {TCP: "TCP", UDP: "UDP", ICMP: "ICMP", ESP: "ESP", ARP: "ARP"}
_PORTLESS: dict[type, Problem] = {ICMP: Problem.NO_PORTS, ESP: Problem.ENCRYPTED, ARP: Problem.NOT_IP}


@dataclass(frozen=True)
class Frame:
    """A frame and the truth about it.

    `protocol` is what a traffic report calls it, `source` and `destination` are IP addresses, or the MAC addresses of what has
    none that can be read. With a `problem` there are no ports and nothing of TCP. `payload` counts the bytes behind the header of
    TCP or UDP, padding left out; `ports_end` is where the first 20 bytes of TCP's header, or UDP's, are over. `vlans` are the ids
    of the two outer tags.
    """

    name: str
    data: bytes
    protocol: str
    source: str
    destination: str
    problem: Problem = Problem.NONE
    sport: int = 0
    dport: int = 0
    flags: int = 0
    seq: int = 0
    ack: int = 0
    payload: int = 0
    fragment: bool = False
    vlans: tuple[int, ...] = ()
    ports_end: int = 0


def made(
    name: str,
    *layers: Packet,
    problem: Problem | None = None,
    protocol: str = "",
    cut: int | None = None,
    pad: bytes = b"",
    addressed: bool = True,
    fragment: bool | None = None,
) -> Frame:
    """Build a frame of layers, the Ethernet header first.

    `problem` and `protocol` are said where the layers alone do not tell them, `fragment` where they would tell something else.
    `cut` is where the frame ends too early, `pad` what stands behind it up to the least size of Ethernet, again and again. Without
    `addressed` nobody can read its IP addresses.
    """
    data = stacked(layers)
    last = next((layer for layer in reversed(layers) if type(layer) in _NAMES), None)
    if problem is None:
        problem = _PORTLESS.get(type(last), Problem.NONE) if last else Problem.NO_PORTS
    numbers = _numbers(last, len(data)) if last and not problem else {}
    if pad:
        data += (pad * SHORTEST)[: max(0, SHORTEST - len(data))]
    network = next((layer for layer in layers if isinstance(layer, IP | IPv6)), None)
    ends = network if network and addressed and problem is not Problem.NOT_IP else layers[0]
    unreadable = f"other ({problem.name.lower().replace('_', ' ')})" if problem in _UNREADABLE else ""
    return Frame(
        name,
        data[:cut],
        unreadable or protocol or _NAMES[type(last)],
        ends.src,
        ends.dst,
        problem,
        fragment=any(map(_is_fragment, layers)) if fragment is None else fragment,
        vlans=tuple(layer.vlan for layer in layers if isinstance(layer, Dot1Q | Dot1AD) and layer.vlan)[:2],
        **numbers,
    )


def _numbers(transport: Packet, frame_length: int) -> dict[str, int]:
    """Return what TCP or UDP says; what is behind it is its payload by now."""
    start = frame_length - len(bytes(transport))
    numbers = {"sport": transport.sport, "dport": transport.dport, "payload": len(bytes(transport.payload))}
    numbers["ports_end"] = start + _WITH_PORTS[type(transport)]
    if isinstance(transport, TCP):
        numbers |= {"flags": int(transport.flags), "seq": transport.seq, "ack": transport.ack}
    return numbers


def stacked(layers: Iterable[Packet]) -> bytes:
    """Return the bytes of layers, each the payload of the one before. Those are joined, not copied: use them once."""
    first, *rest = layers
    reduce(_carry, rest, first)
    return bytes(first)


def _carry(below: Packet, above: Packet) -> Packet:
    below.remove_payload()
    below.add_payload(above)
    return above


def _is_fragment(layer: Packet) -> bool:
    if isinstance(layer, IPv6ExtHdrFragment):
        return bool(layer.offset or layer.m)
    return isinstance(layer, IP) and bool(layer.frag or layer.flags.MF)


def datagrams(flows: Iterable[int], *, size: int = 0) -> Iterator[bytes]:
    """Ethernet frames of UDP datagrams, one for each number: ports and addresses tell the flows apart. Nobody answers them.

    They go from the lab's client to its server, and each is made in a few microseconds. `size` is the payload's in bytes; there are
    6,240,000 flows.
    """
    ethernet = bytes(Ether(src=CLIENT_MAC, dst=SERVER_MAC, type=0x0800))
    head = struct.pack("!BBHHHBBH", 0x45, 0, 28 + size, 0, 0, 1, socket.IPPROTO_UDP, 0)
    behind = struct.pack("!HHH", 53, 8 + size, 0) + bytes(size)
    destination = socket.inet_aton("203.0.113.1")
    for flow in flows:
        source = socket.inet_aton(f"198.51.{100 + flow // 40_000}.1")
        header = head + source + destination
        header = header[:10] + checksum(header).to_bytes(2) + header[12:]
        yield ethernet + header + (1024 + flow % 40_000).to_bytes(2) + behind
