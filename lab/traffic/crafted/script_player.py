"""TCP made by hand between two hosts that do not exist, so that no kernel answers: stories played on the wire.

What lives here: sending a story's segments at their host's interface, in step with their arrival at the other's. What does not: what
the words mean (`lab.traffic.crafted.script`), and TCP made by hand against a kernel's own
(`lab.traffic.crafted.tcp_peer`).
"""

import socket
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from lab.linux.grace_period import await_grace_period
from lab.linux.netns import inside
from lab.network.topology import Host, Topology
from lab.tcp import Flow
from lab.traffic.crafted.frames import SHORTEST, stacked
from lab.traffic.crafted.script import Segment, segments
from lab.traffic.crafted.send import Sender, wait_until

PORT = 80
NOBODY = {4: ("192.0.2.51", "192.0.2.52"), 6: ("2001:db8::51", "2001:db8::52")}
"""Addresses in the lab's networks that no host has, the client's first: frames for them are dropped without a word."""

_ETH_P_ALL = 3
_LIMIT_S = 20.0
_ISNS = (0xFFFFFFF0, 7)  # the client's numbers wrap


class Passed(NamedTuple):
    """A time before a segment was sent, and one at which it had passed both hosts."""

    before_ns: int
    passed_ns: int


class Played(NamedTuple):
    """A story that was played: its flow, the client first, and for each of its segments what and when."""

    flow: Flow
    segments: list[Segment]
    times: list[Passed]


def play(
    net: Topology,
    stories: Sequence[str],
    version: int = 4,
    *,
    vlan: int = 0,
    options: bool = False,
    first_port: int = 30000,
) -> list[Played]:
    """Play stories (words), each with a client's port of its own, all at the same pace: step by step, the first words first.

    A gap counts from when the segment before it has passed both hosts, so it is the least that lies between them. With
    `options`, IP's own header is not of its usual length; short frames are padded as on a real network.
    """
    told = [
        Played(Flow(NOBODY[version][0], first_port + number, NOBODY[version][1], PORT), segments(story, _ISNS), [])
        for number, story in enumerate(stories)
    ]
    frames = [
        [frame(net, story.flow, segment, vlan=vlan, options=options) for segment in story.segments] for story in told
    ]
    with _Hop(net.client, net.server) as to_server, _Hop(net.server, net.client) as to_client:
        for step in range(max(len(story.segments) for story in told)):
            before: list[int] = []
            playing = [number for number, story in enumerate(told) if step < len(story.segments)]
            for number in playing:
                segment, last = told[number].segments[step], told[number].times[-1:]
                if last:
                    wait_until(last[0].passed_ns + segment.gap_ns)
                before.append((to_server if segment.by_client else to_client).carry(frames[number][step]))
            await_grace_period()  # a packet socket gets a frame before TC does
            passed_ns = time.monotonic_ns()
            for number, before_ns in zip(playing, before, strict=True):
                told[number].times.append(Passed(before_ns, passed_ns))
    return told


def frame(net: Topology, flow: Flow, segment: Segment, *, vlan: int = 0, options: bool = False) -> bytes:
    """Return the frame of a segment between the hosts of a network; `flow` is the client's."""
    client, server = net.client.mac, net.server.mac
    mine, macs = (flow, (client, server)) if segment.by_client else (flow.reversed(), (server, client))
    layers: list[Packet] = [Ether(src=macs[0], dst=macs[1])]
    if vlan:
        layers.append(Dot1Q(vlan=vlan))
    if ":" in mine.laddr:
        layers.append(IPv6(src=mine.laddr, dst=mine.raddr))
        layers += [IPv6ExtHdrDestOpt()] * options
    else:
        layers.append(IP(src=mine.laddr, dst=mine.raddr, options=[b"\x01" * 4] * options))
    ports: dict[str, Any] = {"sport": mine.lport, "dport": mine.rport}
    layers.append(TCP(**ports, flags=segment.flags, seq=segment.seq, ack=segment.ack))
    if segment.payload:
        layers.append(Raw(b"x" * segment.payload))
    return stacked(layers).ljust(SHORTEST, b"\0")


class _Hop:
    """From one host to the other: sends a frame and waits until it has come."""

    def __init__(self, here: Host, there: Host) -> None:
        self._sender = Sender(here.name)
        self._arrivals = inside(there.name, tap)

    def carry(self, data: bytes) -> int:
        """Send a frame; returns a time before that, when it has arrived."""
        before_ns, _ = self._sender.send(data)
        while self._arrivals.recvfrom(2048)[1][2] == socket.PACKET_OUTGOING:
            pass  # nothing else is on the wire
        return before_ns

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sender.close()
        self._arrivals.close()


def tap() -> socket.socket:
    """Hear what passes `eth0` of the calling thread's namespace."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    sock.settimeout(_LIMIT_S)
    sock.bind(("eth0", _ETH_P_ALL))
    return sock
