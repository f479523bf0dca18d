"""Playing scripts with both ends scripted. Their addresses belong to no host, so no kernel answers.

What lives here: sending the segments of scripts from the hosts' interfaces, one step after the other. What does not:
the words of a script (`lab.traffic.crafted.script`), and scripts against a kernel's TCP
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
UNOWNED = {4: ("192.0.2.51", "192.0.2.52"), 6: ("2001:db8::51", "2001:db8::52")}
"""Addresses in the lab's networks that no host has, the client's first. The kernels drop packets for them silently."""

_ETH_P_ALL = 3
_LIMIT_S = 20.0
_ISNS = (0xFFFFFFF0, 7)  # the client's sequence numbers wrap


class Passed(NamedTuple):
    """A time before a segment was sent, and a time after it had passed both hosts."""

    before_ns: int
    passed_ns: int


class Played(NamedTuple):
    """A script that was played: its flow, the client first, and its segments with their times."""

    flow: Flow
    segments: list[Segment]
    times: list[Passed]


def play(
    net: Topology,
    scripts: Sequence[str],
    version: int = 4,
    *,
    vlan: int = 0,
    options: bool = False,
    first_port: int = 30000,
) -> list[Played]:
    """Play scripts in parallel: the first segment of each, then the second of each, and so on.

    Each script has its own client port, from `first_port` on. A gap counts from the time when the previous segment has
    passed both hosts, so the gap is a lower bound. With `options`, the IP header has options or an extension header.
    Short frames are padded as on a real network.
    """
    client, server = UNOWNED[version]
    played = [
        Played(Flow(client, first_port + number, server, PORT), segments(script, _ISNS), [])
        for number, script in enumerate(scripts)
    ]
    frames = [
        [frame(net, script.flow, segment, vlan=vlan, options=options) for segment in script.segments]
        for script in played
    ]
    with _Hop(net.client, net.server) as to_server, _Hop(net.server, net.client) as to_client:
        for step in range(max(len(script.segments) for script in played)):
            before: list[int] = []
            playing = [number for number, script in enumerate(played) if step < len(script.segments)]
            for number in playing:
                segment, last = played[number].segments[step], played[number].times[-1:]
                if last:
                    wait_until(last[0].passed_ns + segment.gap_ns)
                before.append((to_server if segment.by_client else to_client).carry(frames[number][step]))
            await_grace_period()  # a packet socket receives a frame before TC does
            passed_ns = time.monotonic_ns()
            for number, before_ns in zip(playing, before, strict=True):
                played[number].times.append(Passed(before_ns, passed_ns))
    return played


def frame(net: Topology, flow: Flow, segment: Segment, *, vlan: int = 0, options: bool = False) -> bytes:
    """Return the frame of a segment between the two hosts; `flow` has the client first."""
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
    """One direction of the wire: sends a frame and waits for its arrival at the other host."""

    def __init__(self, here: Host, there: Host) -> None:
        self._sender = Sender(here.name)
        self._arrivals = inside(there.name, tap)

    def carry(self, data: bytes) -> int:
        """Send a frame, wait for its arrival, and return a time before it was sent."""
        before_ns, _ = self._sender.send(data)
        while self._arrivals.recvfrom(2048)[1][2] == socket.PACKET_OUTGOING:
            pass  # the first received frame is this one, since there is no other traffic
        return before_ns

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sender.close()
        self._arrivals.close()


def tap() -> socket.socket:
    """Return a packet socket with all frames of `eth0`, in both directions, in the calling thread's namespace."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    sock.settimeout(_LIMIT_S)
    sock.bind(("eth0", _ETH_P_ALL))
    return sock
