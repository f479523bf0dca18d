"""Cases of traffic (F): packets, bytes, ports and flows at an interface, for tools that see frames."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from scapy.layers.inet import TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Dot1AD, Dot1Q
from scapy.packet import Packet, Raw

from lab.bench.answers import between, rows_of, watch_conversation, watching
from lab.bench.cases import DPORT, MANY, SPORT, Verdicts, wire, with_many
from lab.bench.context import Bench, frame_tools
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


def packet_counts(_: Bench) -> Verdicts:
    """F1: super-packets, with offloads on. F2: each packet counts once. F5: ARP is reported as ARP."""
    bulk = Conversation(size_bits=64_000_000, reply_bits=8)
    with topology() as net:
        experiment = watch_conversation(net, frame_tools(FLOWS), bulk, port=DPORT)
        low, high, _best = segments_sent(experiment.observed.sent[0])
        for tool in frame_tools(FLOWS):
            packets, _size = between(experiment.rows[tool], net.client.ipv4, net.server.ipv4)
            yield "F1", tool, low <= packets <= high
    with wire() as net, watching(net, frame_tools(FLOWS)) as experiment:
        with converse(net, Conversation(exchanges=5), port=DPORT) as demo:
            pass
        experiment.observed.connections += demo.connections
        send(net.client.name, [_arp_request()])
    log = experiment.observed.wire
    if log is None:
        raise TypeError("the relay keeps a log")
    (flow,) = (connection.client.flow for connection in experiment.observed.connections)
    left = log.stream(flow).left
    for tool in frame_tools(FLOWS):
        counted = between(experiment.rows[tool], flow.laddr, flow.raddr)
        yield "F2", tool, counted == (len(left), int(left["length"].sum()))
        yield "F5", tool, any("ARP" in row.protocol for row in experiment.rows[tool])


def _arp_request() -> bytes:
    """Return an ARP request (RFC 826) for an unused address."""
    sender = bytes.fromhex(CLIENT_MAC.replace(":", ""))
    request = bytes.fromhex("0001080006040001") + sender + bytes([192, 0, 2, 1]) + bytes(6) + bytes([192, 0, 2, 77])
    return b"\xff" * 6 + sender + bytes.fromhex("0806") + request + bytes(18)


def unusual_headers(_: Bench) -> Verdicts:
    """F3: VLANs, IP options, fragments, extension headers. Each packet counts for its flow, no row has wrong ports."""
    frames = list(_unusual_datagrams())
    with topology() as net, watching(net, frame_tools(FLOWS, PACKETS)) as experiment:
        send(net.server.name, [frame.data for frame in frames], gap_ns=MS)
    for tool in frame_tools(FLOWS, PACKETS):
        yield "F3", tool, all(_reported_once(frame, experiment.rows[tool]) for frame in frames)
    connections = list(_unusual_connections())
    with topology() as net, watching(net, frame_tools(DURATION)) as experiment:
        send(net.server.name, [frame.data for segments in connections for frame in segments], gap_ns=MS)
    for tool in frame_tools(DURATION):
        flows = {Flow(syn.source, syn.sport, syn.destination, syn.dport) for syn, *_ in connections}
        rows = experiment.rows[tool]
        unmatched = [row for row in rows if (row.laddr, row.lport, row.raddr, row.rport) not in flows]
        yield "F3", tool, not unmatched and all(rows_of(rows, flow) for flow in flows)


def _reported_once(frame: Frame, rows: list[FlowRow]) -> bool:
    """Return true if the rows count the frame once, with its addresses, and with its ports or none."""
    mine = [row for row in rows if (row.source, row.destination) == (frame.source, frame.destination)]
    ports = None if frame.problem else (frame.sport, frame.dport)
    return sum(row.packets for row in mine) == 1 and all(row.ports in (None, ports) for row in mine)


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
    """Yield the SYN, SYN-ACK and both FINs of each connection behind unusual headers."""
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
    """Return the reply direction. Its frames leave from the same interface."""
    return replace(
        ends,
        source4=ends.destination4,
        destination4=ends.source4,
        source6=ends.destination6,
        destination6=ends.source6,
    )


def many_flows(_: Bench) -> Verdicts:
    """F4: thousands of flows. The tool reports both directions of each, or the number of lost packets."""
    for tool in frame_tools(FLOWS):
        address, rows, missing = with_many(tool)
        reported = {(row.source, row.destination) for row in rows if address in (row.source, row.destination)}
        yield "F4", tool, len(reported) + missing >= 2 * MANY - 1


CASES = (packet_counts, unusual_headers, many_flows)
