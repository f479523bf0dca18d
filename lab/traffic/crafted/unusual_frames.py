"""The catalogue of unusual frames: rare, easily misread or malformed. Every probe and parser is tested with it.

What lives here: the frames, each with its truth. What does not: expectations of a single probe.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

from scapy.layers.inet import (
    ICMP,
    IP,
    TCP,
    UDP,
    IPerror,
    IPOption_NOP,
    IPOption_RR,
    UDPerror,
)
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.ipsec import AH, ESP
from scapy.layers.l2 import ARP, GRE, LLC, STP, Dot1AD, Dot1Q, Dot3, Ether
from scapy.packet import Packet, Raw

from lab.network.topology import CLIENT_MAC, ETHERNET_MTU, SERVER_MAC
from lab.packet import Problem
from lab.traffic.crafted.frames import Frame, made

EXPERIMENTAL = 0x88B5
"""Local experimental ethertype of IEEE 802."""

MOST_HEADERS = 8
"""Maximum number of IPv6 extension headers that bpf/include/packet_parser.inc.h parses."""

LONGEST = 9000
"""Size in bytes of the largest IP packet in the catalogue, so the MTU that a network needs."""

_TAGGED = 14 + 4 + 2  # bytes of an Ethernet header, a tag, and two bytes after it
_UDP = 17
_LIKE_PORTS = (9999).to_bytes(2) * 2


@dataclass(frozen=True)
class Ends:
    """Addresses of the sender and the receiver. No host has the default IP addresses, so nothing answers."""

    source_mac: str = CLIENT_MAC
    destination_mac: str = SERVER_MAC
    source4: str = "198.51.100.1"
    destination4: str = "203.0.113.1"
    source6: str = "2001:db8:1::1"
    destination6: str = "2001:db8:2::1"

    def ethernet(self, **fields: Any) -> Packet:
        """Return an Ethernet header."""
        return Ether(src=self.source_mac, dst=self.destination_mac, **fields)

    def ipv4(self, **fields: Any) -> Packet:
        """Return an IPv4 header."""
        return IP(src=self.source4, dst=self.destination4, **fields)

    def ipv6(self, **fields: Any) -> Packet:
        """Return an IPv6 header."""
        return IPv6(src=self.source6, dst=self.destination6, **fields)

    def plain(self, version: int) -> list[Packet]:
        """Return an Ethernet and an IP header."""
        return [self.ethernet(), self.ipv4() if version == 4 else self.ipv6()]


def unusual(ends: Ends | None = None) -> Iterator[Frame]:
    """Yield every frame of the catalogue, well-formed frames first. Names are unique."""
    kinds = (_plain, _tagged, _options, _fragments, _segments, _portless, _cut_off, _contradictory)
    return chain.from_iterable(kind(ends or Ends()) for kind in kinds)


def lacks_tag(frame: bytes) -> bool:
    """Return true if the receiving kernel drops the frame, since its VLAN tag is incomplete (skb_vlan_untag())."""
    return frame[12:14] in {b"\x81\x00", b"\x88\xa8"} and len(frame) < _TAGGED


def _udp(size: int = 30, **fields: Any) -> list[Packet]:
    header: dict[str, Any] = {"sport": 1000, "dport": 53} | fields
    return [UDP(**header), Raw(bytes(size))]


def _syn(**fields: Any) -> list[Packet]:
    header: dict[str, Any] = {"sport": 1000, "dport": 80, "flags": "S", "seq": 7} | fields
    return [TCP(**header)]


def _plain(ends: Ends) -> Iterator[Frame]:
    for version in (4, 6):
        yield made(f"UDP over IPv{version}", *ends.plain(version), *_udp())
        yield made(f"SYN over IPv{version}", *ends.plain(version), *_syn())
        header = {4: 20, 6: 40}[version]
        for name, longest in (("as large as the MTU", ETHERNET_MTU), ("jumbo", LONGEST)):
            yield made(f"{name}, IPv{version}", *ends.plain(version), *_udp(longest - header - 8))
    yield made("padded to the least size", ends.ethernet(), ends.ipv4(), *_udp(0), pad=_LIKE_PORTS)
    yield made("shorter than Ethernet's least size", ends.ethernet(), ends.ipv4(), *_udp(0))
    yield made("ports that are each other's byte swap", ends.ethernet(), ends.ipv4(), *_udp(sport=20480, dport=80))
    yield made("ports of zero", ends.ethernet(), ends.ipv4(), *_udp(sport=0, dport=0))
    yield made("a wrong checksum of IP", ends.ethernet(), ends.ipv4(chksum=1), *_udp())
    yield made("a wrong checksum of UDP", ends.ethernet(), ends.ipv4(), *_udp(chksum=1))
    yield made("a length of UDP beyond IP's", ends.ethernet(), ends.ipv4(), *_udp(len=2000))
    yield made("a time to live of zero", ends.ethernet(), ends.ipv4(ttl=0), *_udp())
    mine = ends.source4
    yield made("from an address to itself (land)", ends.ethernet(), IP(src=mine, dst=mine), *_syn(sport=80))


def _tagged(ends: Ends) -> Iterator[Frame]:
    for version in (4, 6):
        ethernet, network = ends.plain(version)
        yield made(f"VLAN, IPv{version}", ethernet, Dot1Q(vlan=4094), network, *_udp())
        ethernet, network = ends.plain(version)
        yield made(f"QinQ, IPv{version}", ethernet, Dot1AD(vlan=10), Dot1Q(vlan=20), network, *_udp())
    yield made("a priority tag", ends.ethernet(), Dot1Q(vlan=0, prio=5), ends.ipv4(), *_udp())
    yield made("a priority tag before a VLAN's", ends.ethernet(), Dot1Q(vlan=0), Dot1Q(vlan=7), ends.ipv4(), *_udp())
    yield made("a tag with all its other bits set", ends.ethernet(), Dot1Q(vlan=7, prio=7, dei=1), ends.ipv4(), *_syn())
    tags = [Dot1Q(vlan=1), Dot1Q(vlan=2), Dot1Q(vlan=3)]
    three = [ends.ethernet(), *tags, ends.ipv4(), *_udp()]
    yield made("three tags", *three, problem=Problem.NOT_IP, protocol="VLAN")
    yield made("ARP in a VLAN", ends.ethernet(), Dot1Q(vlan=7), ARP())


def _options(ends: Ends) -> Iterator[Frame]:
    for name, options in (
        ("40 bytes of IP options", [IPOption_NOP()] * 40),
        ("an IP option", [IPOption_RR(routers=["192.0.2.9"])]),
        ("an IP option that is longer than the header", [IPOption_RR(length=255)]),
    ):
        yield made(name, ends.ethernet(), ends.ipv4(options=options), *_syn())
    extensions = [IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt(), IPv6ExtHdrRouting()]
    yield made("extension headers", *ends.plain(6), *extensions, *_udp())
    for count, name in ((MOST_HEADERS, "as many extension headers as are looked through"), (12, "more of them")):
        problem = Problem.TOO_MANY_HEADERS if count > MOST_HEADERS else Problem.NONE
        extensions = [IPv6ExtHdrDestOpt() for _ in range(count)]
        yield made(name, *ends.plain(6), *extensions, *_udp(), problem=problem)
    for version in (4, 6):
        authentication = AH(icv=bytes(12), payloadlen=4, nh=_UDP)
        yield made(f"an authentication header, IPv{version}", *ends.plain(version), authentication, *_udp())


def _fragments(ends: Ends) -> Iterator[Frame]:
    """Yield fragments of UDP datagrams of 108 bytes, and of one TCP segment."""
    data = bytes(UDP(sport=1000, dport=53, len=108, chksum=1)) + bytes(100)
    later = partial(made, problem=Problem.LATER_FRAGMENT)
    for start, end, what in (
        (56, 108, "the last fragment"),
        (24, 56, "a middle fragment"),
        (16, 64, "that overlaps both"),
    ):
        part, more = Raw(data[start:end]), end < len(data)
        header = ends.ipv4(id=7, proto=_UDP, frag=start // 8, flags="MF" * more)
        part_of_it = later(f"{what}, IPv4", ends.ethernet(), header, part, protocol="UDP", fragment=True)
        yield replace(part_of_it, payload=end - start)
        header = IPv6ExtHdrFragment(nh=_UDP, id=7, offset=start // 8, m=int(more))
        part_of_it = later(f"{what}, IPv6", *ends.plain(6), header, part, protocol="UDP", fragment=True)
        yield replace(part_of_it, payload=end - start)
    first = _udp(16, len=108, chksum=1)
    yield made("the first fragment, IPv4", ends.ethernet(), ends.ipv4(id=7, flags="MF"), *first)
    first = _udp(16, len=108, chksum=1)
    yield made("the first fragment, IPv6", *ends.plain(6), IPv6ExtHdrFragment(id=7, m=1), *first)
    yield made("a fragment that is the whole (atomic)", *ends.plain(6), IPv6ExtHdrFragment(id=8), *_udp())
    halves = bytes(TCP(sport=1000, dport=80, flags="S"))
    tiny = partial(made, problem=Problem.TRUNCATED, fragment=True)
    yield tiny(
        "half of TCP's header in a fragment", ends.ethernet(), ends.ipv4(id=9, proto=6, flags="MF"), Raw(halves[:8])
    )
    rest = [ends.ethernet(), ends.ipv4(id=9, proto=6, frag=1), Raw(halves[8:])]
    yield later("the other half", *rest, protocol="TCP")
    yield tiny("the same over IPv6", *ends.plain(6), IPv6ExtHdrFragment(id=9, m=1, nh=6), Raw(halves[:8]))
    beyond = [ends.ethernet(), ends.ipv4(id=10, proto=_UDP, frag=8191), Raw(bytes(400))]
    too_long = later("a fragment that ends beyond 64 KB (ping of death)", *beyond, protocol="UDP")
    yield replace(too_long, payload=400)


def _segments(ends: Ends) -> Iterator[Frame]:
    """Yield TCP segments with flags, numbers and options that no TCP sends."""
    for flags, name in ((0, "no control bit"), (255, "all control bits"), ("SF", "SYN and FIN"), ("SR", "SYN and RST")):
        yield made(name, *ends.plain(4), *_syn(flags=flags, sport=2000), Raw(bytes(7)))
    yield made("the largest numbers", *ends.plain(6), *_syn(flags="FA", seq=2**32 - 1, ack=2**32 - 1), Raw(bytes(7)))
    yield made("a wrong checksum of TCP", *ends.plain(4), *_syn(chksum=1))
    options = [("MSS", 0), ("WScale", 255), ("Timestamp", (0, 0)), ("SAckOK", b"")]
    yield made("TCP options with values that make no sense", *ends.plain(4), *_syn(options=options))
    header_beyond = made("a TCP header that ends behind the packet", *ends.plain(4), *_syn(dataofs=15), Raw(bytes(10)))
    yield replace(header_beyond, payload=0)


def _portless(ends: Ends) -> Iterator[Frame]:
    yield made("ICMP", *ends.plain(4), ICMP(), Raw(bytes(56)))
    inner = [IPerror(src=ends.destination4, dst=ends.source4), UDPerror(sport=53, dport=1000)]
    no_ports = partial(made, problem=Problem.NO_PORTS)
    yield no_ports(
        "an ICMP error with another packet's ports", *ends.plain(4), ICMP(type=3, code=3), *inner, protocol="ICMP"
    )
    yield made("ICMPv6", *ends.plain(6), ICMPv6EchoRequest(data=bytes(56)), protocol="ICMPv6")
    inner = [IPv6(src=ends.destination6, dst=ends.source6), *_udp()]
    yield no_ports("an ICMPv6 error", *ends.plain(6), ICMPv6PacketTooBig(), *inner, protocol="ICMPv6")
    yield no_ports("GRE", *ends.plain(4), GRE(), IP(), *_udp(), protocol="GRE")
    yield no_ports("IPv4 in IPv4", *ends.plain(4), IP(), *_udp(), protocol="IPIP")
    yield no_ports("IPv6 in IPv4", *ends.plain(4), IPv6(), *_udp(), protocol="IPv6")
    yield made("ESP", *ends.plain(4), ESP(spi=9999 << 16 | 9999, seq=1, data=bytes(40)))
    yield made("a protocol without a name", ends.ethernet(), ends.ipv4(proto=253), Raw(bytes(40)), protocol="IP-253")
    yield made("no next header", ends.ethernet(), ends.ipv6(nh=59), Raw(_LIKE_PORTS * 10), protocol="NoNext")
    not_ip = partial(made, problem=Problem.NOT_IP)
    yield made("ARP", ends.ethernet(), ARP(psrc=ends.source4, pdst=ends.destination4))
    yield not_ip("LLC", Dot3(src=ends.source_mac, dst=ends.destination_mac), LLC(), STP(), protocol="LLC")
    yield not_ip("an ethertype without a name", ends.ethernet(type=EXPERIMENTAL), Raw(bytes(50)), protocol="0x88b5")
    mpls = [ends.ethernet(type=0x8847), Raw(b"\x00\x01\x01\x40"), ends.ipv4(), *_udp()]
    yield not_ip("MPLS", *mpls, protocol="MPLS")
    yield not_ip("an Ethernet header and nothing else", ends.ethernet(type=EXPERIMENTAL), protocol="0x88b5")


def _cut_off(ends: Ends) -> Iterator[Frame]:
    """Yield frames and packets that end inside their headers or payload."""
    truncated = partial(made, problem=Problem.TRUNCATED)
    nameless = partial(truncated, addressed=False)
    for version, header in ((4, 20), (6, 40)):
        for length, name in ((header, "half an IP header"), (header - 1, "an IP header without its last byte")):
            cut = 14 + (length // 2 if "half" in name else length)
            yield nameless(f"{name}, IPv{version}", *ends.plain(version), *_udp(), cut=cut)
        yield truncated(f"half a TCP header, IPv{version}", *ends.plain(version), *_syn(), cut=14 + header + 16)
        yield truncated(f"half a UDP header, IPv{version}", *ends.plain(version), *_udp(), cut=14 + header + 4)
        beyond = made(
            f"a payload cut off, IPv{version}", *ends.plain(version), *_syn(), Raw(bytes(100)), cut=14 + header + 50
        )
        yield replace(beyond, payload=30)
    yield truncated("a TCP header cut off by IP's length", ends.ethernet(), ends.ipv4(proto=6, len=30), Raw(bytes(10)))
    yield truncated("ports in the padding, IPv4", ends.ethernet(), ends.ipv4(proto=_UDP), pad=_LIKE_PORTS)
    yield truncated("ports in the padding, IPv6", ends.ethernet(), ends.ipv6(nh=_UDP, plen=0), pad=_LIKE_PORTS)
    yield truncated("an extension header cut off", *ends.plain(6), IPv6ExtHdrDestOpt(), *_udp(), cut=14 + 40 + 1)
    extension = IPv6ExtHdrDestOpt(len=255, nh=_UDP)
    yield truncated("an extension header that ends behind the packet", *ends.plain(6), extension, *_udp())
    yield truncated("IP options cut off", ends.ethernet(), ends.ipv4(ihl=15, proto=_UDP, len=60), Raw(bytes(20)))
    yield nameless("half a VLAN tag", ends.ethernet(), Dot1Q(vlan=0), ends.ipv4(), *_udp(), cut=16)


def _contradictory(ends: Ends) -> Iterator[Frame]:
    """Yield packets whose headers contradict themselves."""
    malformed = partial(made, problem=Problem.MALFORMED)
    nameless = partial(malformed, addressed=False)
    for header, name in (
        (ends.ipv4(version=5), "version 5"),
        (ends.ipv4(version=6), "version 6 in IPv4"),
        (ends.ipv4(ihl=4), "an IP header of 16 bytes"),
        (ends.ipv4(ihl=0), "an IP header of no byte"),
        (ends.ipv6(version=4), "version 4 in IPv6"),
    ):
        yield nameless(name, ends.ethernet(), header, *_udp())
    for length in (0, 19):
        yield malformed(f"an IP packet of {length} bytes", ends.ethernet(), ends.ipv4(len=length), *_udp())
    for words in (0, 4):
        yield malformed(f"a TCP header of {words * 4} bytes", *ends.plain(4), *_syn(dataofs=words))
    yield malformed("an authentication header of 8 bytes, IPv4", *ends.plain(4), AH(payloadlen=0), *_udp())
    yield malformed("an authentication header of 8 bytes, IPv6", *ends.plain(6), AH(payloadlen=0), *_udp())
    short = [ends.ethernet(), ends.ipv4(len=19), *_udp(0)]
    yield malformed("a padded IP packet of 19 bytes", *short, pad=b"\x00")
