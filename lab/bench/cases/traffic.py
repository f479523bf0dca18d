"""Cases of traffic (F): packets, bytes, ports and flows at an interface, asked of tools that see frames."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from scapy.layers.inet import TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Dot1AD, Dot1Q
from scapy.packet import Packet, Raw

from lab.bench.asked import ask, asking, between, rows_of
from lab.bench.cases import DPORT, MANY, SPORT, Verdicts, wire, with_many
from lab.bench.context import Bench, seeing_frames
from lab.bench.tools import DURATION, FLOWS, PACKETS, FlowRow
from lab.network.topology import CLIENT_MAC, SERVER_MAC, topology
from lab.packet import Problem
from lab.tcp import Flow
from lab.traffic.crafted.frames import Frame, made
from lab.traffic.crafted.send import send
from lab.traffic.crafted.unusual_frames import Ends
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse
from lab.truth.volumes import segments_sent
from lab.units import MS

_LIKE_PORTS = (9999).to_bytes(2) * 20
_UDP_NUMBER = 17


def counted(_: Bench) -> Verdicts:
    """F1: super-packets, offloads on. F2: each packet once. F5: what is not IP has a name of its own."""
    bulk = Conversation(size_bits=64_000_000, reply_bits=8)
    with topology() as net:
        asked = ask(net, seeing_frames(FLOWS), bulk, port=DPORT)
        low, high, _best = segments_sent(asked.observed.sent[0])
        for tool in seeing_frames(FLOWS):
            packets, _size = between(asked.rows[tool], net.client.ipv4, net.server.ipv4)
            yield "F1", tool, low <= packets <= high
    with wire() as net, asking(net, seeing_frames(FLOWS)) as asked:
        with converse(net, Conversation(exchanges=5), port=DPORT) as demo:
            pass
        asked.observed.connections += demo.connections
        send(net.client.name, [_arp_request()])
    log = asked.observed.wire
    if log is None:
        raise TypeError("the relay keeps a log")
    (flow,) = (connection.client.flow for connection in asked.observed.connections)
    left = log.stream(flow).left
    for tool in seeing_frames(FLOWS):
        yield "F2", tool, between(asked.rows[tool], flow.laddr, flow.raddr) == (len(left), int(left["length"].sum()))
        yield "F5", tool, any("ARP" in row.protocol for row in asked.rows[tool])


def _arp_request() -> bytes:
    """Return a frame that asks for an address that nobody has (RFC 826)."""
    sender = bytes.fromhex(CLIENT_MAC.replace(":", ""))
    asks = bytes.fromhex("0001080006040001") + sender + bytes([192, 0, 2, 1]) + bytes(6) + bytes([192, 0, 2, 77])
    return b"\xff" * 6 + sender + bytes.fromhex("0806") + asks + bytes(18)


def unusual_headers(_: Bench) -> Verdicts:
    """F3: VLANs, IP options, fragments and extension headers: each packet is told under its own flow, and none with a wrong port."""
    frames = list(_unusual_datagrams())
    with topology() as net, asking(net, seeing_frames(FLOWS, PACKETS)) as asked:
        send(net.server.name, [frame.data for frame in frames], gap_ns=MS)
    for tool in seeing_frames(FLOWS, PACKETS):
        yield "F3", tool, all(_told_as_it_is(frame, asked.rows[tool]) for frame in frames)
    talks = list(_unusual_connections())
    with topology() as net, asking(net, seeing_frames(DURATION)) as asked:
        send(net.server.name, [frame.data for talk in talks for frame in talk], gap_ns=MS)
    for tool in seeing_frames(DURATION):
        flows = {Flow(syn.source, syn.sport, syn.destination, syn.dport) for syn, *_ in talks}
        rows = asked.rows[tool]
        nobodys = [row for row in rows if (row.laddr, row.lport, row.raddr, row.rport) not in flows]
        yield "F3", tool, not nobodys and all(rows_of(rows, flow) for flow in flows)


def _told_as_it_is(frame: Frame, rows: list[FlowRow]) -> bool:
    """Tell whether a frame is told once, from its sender to its receiver, with its own ports or with none."""
    mine = [row for row in rows if (row.source, row.destination) == (frame.source, frame.destination)]
    ports = None if frame.problem else (frame.sport, frame.dport)
    return sum(row.packets for row in mine) == 1 and all(row.ports in (None, ports) for row in mine)


def _ends(number: int) -> Ends:
    """Addresses of nobody, other ones for each number, on the way from the server to the client: XDP sees what comes in."""
    return Ends(SERVER_MAC, CLIENT_MAC, source4=f"198.51.100.{number}", source6=f"2001:db8:1::{number:x}")


def _headers(ends: Ends) -> Iterator[tuple[str, list[Packet]]]:
    """Yield what stands before a UDP or TCP header that is there as a whole; anew each time, since layers are used once."""
    for version in (4, 6):
        for name, tags in (("VLAN", [Dot1Q(vlan=7)]), ("QinQ", [Dot1AD(vlan=10), Dot1Q(vlan=20)])):
            ethernet, network = ends.plain(version)
            yield f"{name}, IPv{version}", [ethernet, *tags, network]
    yield "IP options", [ends.ethernet(), ends.ipv4(options=[IPOption_NOP()] * 40)]
    yield "extension headers", [*ends.plain(6), IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt()]
    yield "a fragment that is the whole", [*ends.plain(6), IPv6ExtHdrFragment(id=8)]


def _unusual_datagrams() -> Iterator[Frame]:
    """Yield datagrams behind unusual headers, and fragments, with ports in the first and what looks like ports in the later ones."""
    count = len(list(_headers(_ends(0))))
    for number in range(count):
        name, headers = list(_headers(_ends(1 + number)))[number]
        yield made(name, *headers, UDP(sport=SPORT + number, dport=DPORT), Raw(bytes(30)))
    first, later = _ends(count + 1), _ends(count + 2)
    datagram = partial(UDP, sport=SPORT, dport=DPORT, len=1000, chksum=1)
    yield made("first fragment, IPv4", first.ethernet(), first.ipv4(id=7, flags="MF"), datagram(), Raw(bytes(16)))
    yield made("first fragment, IPv6", *first.plain(6), IPv6ExtHdrFragment(id=7, m=1), datagram(), Raw(bytes(16)))
    rest = partial(made, problem=Problem.LATER_FRAGMENT, protocol="UDP")
    header = later.ipv4(id=9, proto=_UDP_NUMBER, frag=3)
    yield rest("later fragment, IPv4", later.ethernet(), header, Raw(_LIKE_PORTS))
    header = IPv6ExtHdrFragment(nh=_UDP_NUMBER, id=9, offset=3)
    yield rest("later fragment, IPv6", *later.plain(6), header, Raw(_LIKE_PORTS))


def _unusual_connections() -> Iterator[list[Frame]]:
    """Yield the SYN, SYN-ACK and both FINs of connections behind unusual headers."""
    for number in range(len(list(_headers(_ends(0))))):
        to_server, to_client = (_ends(1 + number), _back(_ends(1 + number)))
        here, there = SPORT + number, DPORT
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
    """Return the way back, which the frames take from the same interface."""
    return replace(
        ends,
        source4=ends.destination4,
        destination4=ends.source4,
        source6=ends.destination6,
        destination6=ends.source6,
    )


def many_flows(_: Bench) -> Verdicts:
    """F4: thousands of flows; both directions of each are told, or the tool says how much is missing."""
    for tool in seeing_frames(FLOWS):
        address, rows, missing = with_many(tool)
        told = {(row.source, row.destination) for row in rows if address in (row.source, row.destination)}
        yield "F4", tool, len(told) + missing >= 2 * MANY - 1


CASES = (counted, unusual_headers, many_flows)
