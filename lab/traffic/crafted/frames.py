"""Frames with their truth: the bytes, and the fields that a probe must read in them or the reason why it cannot.

The truth comes from the layers that a frame is built of, not from parsing its bytes. What lives here: building frames.
What does not: the catalogue of frames (`lab.traffic.crafted.unusual_frames`).
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
"""Minimum size of an Ethernet frame in bytes, without its checksum; shorter frames are padded."""

_UNREADABLE = (Problem.TRUNCATED, Problem.MALFORMED, Problem.TOO_MANY_HEADERS)
_WITH_PORTS = {TCP: 20, UDP: 8}
_NAMES: dict[type, str] = {TCP: "TCP", UDP: "UDP", ICMP: "ICMP", ESP: "ESP", ARP: "ARP"}
_PORTLESS: dict[type, Problem] = {ICMP: Problem.NO_PORTS, ESP: Problem.ENCRYPTED, ARP: Problem.NOT_IP}


@dataclass(frozen=True)
class Frame:
    """A frame and its truth.

    - `protocol` is its name in a traffic report.
    - `source` and `destination` are IP addresses, or MAC addresses if the frame has no readable IP addresses.
    - With a `problem` the frame has no ports and no TCP fields.
    - `payload` is the number of bytes after the TCP or UDP header, without padding. A later fragment has no header.
    - `ports_end` is the offset of the end of the UDP header, or of the first 20 bytes of the TCP header.
    - `vlans` are the ids of the two outer tags.
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
    """Return a frame built of layers, the Ethernet header first.

    - `problem`, `protocol` and `fragment` are given if they do not follow from the layers.
    - `cut` truncates the frame to this many bytes.
    - `pad` is repeated after the frame up to the minimum size of Ethernet.
    - `addressed=False` means that the IP addresses of the frame cannot be read.
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
    """Return the fields of a `Frame` that a TCP or UDP layer, with its payload attached (`stacked`), determines."""
    start = frame_length - len(bytes(transport))
    numbers = {"sport": transport.sport, "dport": transport.dport, "payload": len(bytes(transport.payload))}
    numbers["ports_end"] = start + _WITH_PORTS[type(transport)]
    if isinstance(transport, TCP):
        numbers |= {"flags": int(transport.flags), "seq": transport.seq, "ack": transport.ack}
    return numbers


def stacked(layers: Iterable[Packet]) -> bytes:
    """Return the bytes of layers, each the payload of the one before. It modifies the layers: use each of them once."""
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
    """Yield an Ethernet frame with a UDP datagram for each flow number, each with its own source address and port.

    The frames go from the client's MAC address to the server's. No host has their IP addresses, so nothing answers.
    `size` is the payload in bytes. Numbers are below 6,240,000. Building a frame takes a few microseconds.
    """
    ethernet = bytes(Ether(src=CLIENT_MAC, dst=SERVER_MAC, type=0x0800))
    head = struct.pack("!BBHHHBBH", 0x45, 0, 28 + size, 0, 0, 1, socket.IPPROTO_UDP, 0)
    rest = struct.pack("!HHH", 53, 8 + size, 0) + bytes(size)
    destination = socket.inet_aton("203.0.113.1")
    for flow in flows:
        source = socket.inet_aton(f"198.51.{100 + flow // 40_000}.1")
        header = head + source + destination
        header = header[:10] + checksum(header).to_bytes(2) + header[12:]
        yield ethernet + header + (1024 + flow % 40_000).to_bytes(2) + rest
