"""Cases of traffic: packets, bytes, ports and flows at an interface (F), retransmissions (T), drops (P)."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from scapy.layers.inet import TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Dot1AD, Dot1Q
from scapy.packet import Packet, Raw

from lab.judging.case import Case
from lab.judging.cases.connections import DELAY, wire
from lab.judging.finding import Finding, absent, matched, value
from lab.judging.happened import Happened, Sent
from lab.judging.kinds.traffic import rows_between, total
from lab.judging.quantity import Quantity, Told
from lab.judging.stage import Stage, conversed
from lab.network.conditions import Conditions
from lab.network.topology import CLIENT_MAC, SERVER_MAC, topology
from lab.packet import Problem
from lab.tcp import Flow
from lab.traffic.crafted.frames import Frame, made
from lab.traffic.crafted.send import send
from lab.traffic.crafted.unusual_frames import Ends
from lab.traffic.demo.conversation import Conversation
from lab.truth.volumes import segments_sent
from lab.units import MS

_LIKE_PORTS = (9999).to_bytes(2) * 20
_UDP_NUMBER = 17
_SPORT, _DPORT = 20480, 80  # each other's byte swap; no traffic of the machine has these frames' addresses


def bulk(stage: Stage) -> Happened:
    """Send 8 MB from the client, with offloads on: the kernel hands super-packets to the interface."""
    with topology() as net:
        observed = stage.converse(net, Conversation(size_bits=64_000_000, reply_bits=8))
        low, high, _ = segments_sent(observed.sent[0])
        happened = stage.happened("bulk", net, observed, again=1 << 30)
    happened.facts |= {"least": low, "most": high}
    return happened


def as_many_as_sent(quantity: Quantity, told: Told, happened: Happened) -> Iterator[Finding]:
    """Yield the finding of the packets from the client: as many as the kernel counts segments that it sent."""
    if quantity.direction == "ingress":
        return
    client, server = happened.client[0], happened.server[0]
    mine = rows_between(quantity, told, client, server, happened.port)
    interval = (happened.facts["least"], happened.facts["most"], happened.facts["least"])
    known = "the host's counter of segments sent (tcpOutSegs), which counts each segment of a super-packet"
    subject = f"{client} to {server}"
    if not mine:
        yield absent("packets", subject, interval, lost=told.lost, unit="", known_by=known)
        return
    raw = [row.raw for row in mine][-3:]
    yield value("packets", subject, interval, total(mine, "packets"), unit="", known_by=known, rows=raw)


def each_frame(stage: Stage) -> Happened:
    """Hold a connection with five requests, whose every frame the wire logs, and send an ARP request."""
    with wire() as net:
        with stage.watching(net) as observed:
            observed.connections += conversed(net, Conversation(exchanges=5), port=stage.ports.server)
            send(net.client.name, [_arp_request()])
        happened = stage.happened("each-frame", net, observed)
    happened.frames = [Sent("an ARP request", "ARP", "", "", None, len(_arp_request()))]
    return happened


def _arp_request() -> bytes:
    """Return an ARP request (RFC 826) for an unused address."""
    sender = bytes.fromhex(CLIENT_MAC.replace(":", ""))
    request = bytes.fromhex("0001080006040001") + sender + bytes([192, 0, 2, 1]) + bytes(6) + bytes([192, 0, 2, 77])
    return b"\xff" * 6 + sender + bytes.fromhex("0806") + request + bytes(18)


def unusual_datagrams(stage: Stage) -> Happened:
    """Send datagrams behind VLAN tags, IP options and extension headers, and fragments whose data looks like ports."""
    frames = list(_unusual_datagrams())
    with topology() as net:
        with stage.watching(net) as observed:
            send(net.server.name, [frame.data for frame in frames], gap_ns=MS)
        happened = stage.happened("unusual-datagrams", net, observed)
    happened.frames = [
        Sent(
            frame.name, frame.protocol or "", str(frame.source or ""), str(frame.destination or ""),
            None if frame.problem else (frame.sport, frame.dport), len(frame.data),
        )
        for frame in frames
    ]  # fmt: skip
    return happened


def unusual_connections(stage: Stage) -> Happened:
    """Send connections behind VLAN tags, IP options and extension headers: SYN, SYN-ACK and both FINs of each."""
    connections = list(_unusual_connections())
    with topology() as net:
        with stage.watching(net) as observed:
            send(net.server.name, [frame.data for segments in connections for frame in segments], gap_ns=MS)
        happened = stage.happened("unusual-connections", net, observed)
    happened.frames = [
        Sent(syn.name, "TCP", str(syn.source), str(syn.destination), (syn.sport, syn.dport), len(syn.data))
        for syn, *_ in connections
    ]
    return happened


def each_connection(_: Quantity, told: Told, happened: Happened) -> Iterator[Finding]:
    """Yield a finding for each crafted connection, and one for rows of other ports."""
    flows = {Flow(it.source, it.ports[0], it.destination, it.ports[1]): it for it in happened.frames if it.ports}
    known = "the frames as they were sent"
    for flow, frame in flows.items():
        name = f"connection behind {frame.name}"
        mine = [row for row in told.rows if row.ends in (tuple(flow), tuple(flow.reversed()))]
        if mine:
            yield matched(name, str(flow), "a row", "a row", right=True, known_by=known, rows=[mine[0].raw])
        else:
            yield absent(name, str(flow), None, lost=told.lost, known_by=known, truth="a row")
    addresses = {end for flow in flows for end in (flow.laddr, flow.raddr)}
    known_ends = {tuple(it) for flow in flows for it in (flow, flow.reversed())}
    invented = [row for row in told.rows if row.get("laddr") in addresses and row.ends not in known_ends]
    if invented:
        number, rows = str(len(invented)), [invented[0].raw]
        yield matched("rows of no connection", "all", "none", number, right=False, known_by=known, rows=rows)


def _ends(number: int) -> Ends:
    """Return unused addresses for a number, in the direction from server to client: XDP sees ingress frames only."""
    return Ends(SERVER_MAC, CLIENT_MAC, source4=f"198.51.100.{number}", source6=f"2001:db8:1::{number:x}")


def _headers(ends: Ends) -> Iterator[tuple[str, list[Packet]]]:
    """Yield a name and the headers before a complete UDP or TCP header. The layers are new: scapy uses a layer once."""
    for version in (4, 6):
        for name, tags in (("VLAN", [Dot1Q(vlan=7)]), ("QinQ", [Dot1AD(vlan=10), Dot1Q(vlan=20)])):
            ethernet, network = ends.plain(version)
            yield f"{name}, IPv{version}", [ethernet, *tags, network]
    yield "IP options", [ends.ethernet(), ends.ipv4(options=[IPOption_NOP()] * 40)]
    yield "extension headers", [*ends.plain(6), IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt()]
    yield "a fragment that is the whole", [*ends.plain(6), IPv6ExtHdrFragment(id=8)]


def _unusual_datagrams() -> Iterator[Frame]:
    """Yield datagrams behind unusual headers, and fragments. Later fragments have data that looks like ports."""
    count = len(list(_headers(_ends(0))))
    for number in range(count):
        name, headers = list(_headers(_ends(1 + number)))[number]
        yield made(name, *headers, UDP(sport=_SPORT + number, dport=_DPORT), Raw(bytes(30)))
    first, later = _ends(count + 1), _ends(count + 2)
    datagram = partial(UDP, sport=_SPORT, dport=_DPORT, len=1000, chksum=1)
    yield made("first fragment, IPv4", first.ethernet(), first.ipv4(id=7, flags="MF"), datagram(), Raw(bytes(16)))
    yield made("first fragment, IPv6", *first.plain(6), IPv6ExtHdrFragment(id=7, m=1), datagram(), Raw(bytes(16)))
    rest = partial(made, problem=Problem.LATER_FRAGMENT, protocol="UDP")
    header = later.ipv4(id=9, proto=_UDP_NUMBER, frag=3)
    yield rest("later fragment, IPv4", later.ethernet(), header, Raw(_LIKE_PORTS))
    header = IPv6ExtHdrFragment(nh=_UDP_NUMBER, id=9, offset=3)
    yield rest("later fragment, IPv6", *later.plain(6), header, Raw(_LIKE_PORTS))


def _unusual_connections() -> Iterator[list[Frame]]:
    """Yield the SYN, SYN-ACK and both FINs of each connection behind unusual headers."""
    for number in range(len(list(_headers(_ends(0))))):
        to_server, to_client = (_ends(1 + number), _back(_ends(1 + number)))
        here, there = _SPORT + number, _DPORT
        yield [
            made(name, *headers, TCP(sport=sport, dport=dport, flags=flags, seq=seq, ack=ack))
            for ends, sport, dport, flags, seq, ack in (
                (to_server, here, there, "S", 7, 0),
                (to_client, there, here, "SA", 70, 8),
                (to_server, here, there, "FA", 8, 71),
                (to_client, there, here, "FA", 71, 9),
            )
            for name, headers in [list(_headers(ends))[number]]
        ]


def _back(ends: Ends) -> Ends:
    """Return the reply direction. Its frames leave from the same interface."""
    return replace(
        ends,
        source4=ends.destination4,
        destination4=ends.source4,
        source6=ends.destination6,
        destination6=ends.source6,
    )


def lost_data(stage: Stage) -> Happened:
    """Lose the client's request once. It is sent again."""
    with wire(Conditions(delay_ns=DELAY.delay_ns, drop=(3,))) as net:
        return stage.happened("lost-data", net, stage.converse(net, Conversation()), again=1 << 30)


def lost_syn_ack(stage: Stage) -> Happened:
    """Lose the server's SYN-ACK once. SYN and SYN-ACK are sent again."""
    with wire(DELAY, Conditions(delay_ns=DELAY.delay_ns, drop=(1,))) as net:
        return stage.happened("lost-syn-ack", net, stage.converse(net, Conversation()), again=1 << 30)


def closed_port(stage: Stage) -> Happened:
    """Send a SYN to a port where nobody listens. The kernel drops it with the reason NO_SOCKET."""
    with wire() as net:
        with stage.watching(net) as observed:
            observed.connections += conversed(net, Conversation(), port=stage.ports.server, serve=False)
        happened = stage.happened("closed-port", net, observed, errors=1)
    happened.facts |= {"drops": 1}
    return happened


_FLOWS = ("flows",)

CASES = (
    Case("F1", _FLOWS, bulk, compare=as_many_as_sent, frames_only=True),
    Case("F2", _FLOWS, each_frame, ("packets", "bytes"), frames_only=True),
    Case("F3", ("flows", "packets"), unusual_datagrams, frames_only=True),
    Case("F3D", ("duration",), unusual_connections, compare=each_connection, frames_only=True),
    Case("F5", _FLOWS, each_frame, ("frames that are no IP",), frames_only=True),
    Case("T2", ("retransmissions",), lost_data),
    Case("T4", ("retransmissions",), lost_syn_ack),
    Case("P1", ("drops",), closed_port),
)
