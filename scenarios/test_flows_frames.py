"""Frames that are easily misread, made by hand and sent from one host to the other: each is counted under its own name.

F3 and F5 are rows of the corpus of known wrong numbers: see README.md.
"""

import socket
import struct

import pytest
from raw_frames import EXPERIMENTAL, send
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, fragment
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.ipsec import ESP
from scapy.layers.l2 import ARP, GRE, LLC, STP, Dot1AD, Dot1Q, Dot3, Ether
from scapy.packet import Raw, raw

from lab import traffic
from lab.netns import inside
from lab.recorder import record
from lab.traffic import Direction
from lab.traffic_report import as_dict

C, S = "02:00:00:00:00:c1", "02:00:00:00:00:5e"
FROM, TO = "198.51.100.1", "203.0.113.1"  # no host has these addresses, so that nobody answers
FROM6, TO6 = "2001:db8:1::1", "2001:db8:2::1"
ETHER = Ether(src=C, dst=S)
V4, V6 = ETHER / IP(src=FROM, dst=TO), ETHER / IPv6(src=FROM6, dst=TO6)
DATAGRAM = UDP(sport=1000, dport=53) / Raw(bytes(30))
SEGMENT = TCP(sport=1000, dport=80, flags="S")
OPTIONS = IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting()
MANY = IPv6ExtHdrDestOpt()
for _ in range(11):
    MANY /= IPv6ExtHdrDestOpt()


def parts(*frames):
    """Fragment IPv4 frames."""
    return [part for frame in frames for part in fragment(frame, 400)]


def parts6(protocol, payload):
    """Cut an IPv6 payload in two: the first fragment has the ports."""
    data = raw(payload)
    first, rest = IPv6ExtHdrFragment(nh=protocol, m=1, id=7), IPv6ExtHdrFragment(nh=protocol, offset=3, id=7)
    return [V6 / first / Raw(data[:24]), V6 / rest / Raw(data[24:])]


PLAIN, NONE = (1000, 53, None), (None, None, "no_ports")
# What is sent, and the name, the ends, ports or why there are none, VLAN and inner VLAN of each frame.
CASES = {
    "UDP": ([V4 / DATAGRAM], [("UDP", FROM, TO, *PLAIN)]),
    "UDP over IPv6": ([V6 / DATAGRAM], [("UDP", FROM6, TO6, *PLAIN)]),
    "IP options": (
        [ETHER / IP(src=FROM, dst=TO, options=[IPOption_NOP()] * 12) / SEGMENT],
        [("TCP", FROM, TO, 1000, 80, None)],
    ),
    "VLAN": ([ETHER / Dot1Q(vlan=10) / V4[IP] / DATAGRAM], [("UDP", FROM, TO, *PLAIN, 10)]),
    "VLAN, IPv6": ([ETHER / Dot1Q(vlan=4094) / V6[IPv6] / DATAGRAM], [("UDP", FROM6, TO6, *PLAIN, 4094)]),
    "two VLAN tags": (
        [ETHER / Dot1AD(vlan=10) / Dot1Q(vlan=20) / V4[IP] / DATAGRAM],
        [("UDP", FROM, TO, *PLAIN, 10, 20)],
    ),
    "fragments": (
        parts(V4 / UDP(sport=1000, dport=53) / Raw(bytes(1000))),
        [("UDP", FROM, TO, *PLAIN), *[("UDP", FROM, TO, None, None, "later_fragment")] * 2],
    ),
    "IPv6 fragments": (
        parts6(17, UDP(sport=1000, dport=53, len=108, chksum=1) / Raw(bytes(100))),
        [("UDP", FROM6, TO6, *PLAIN), ("UDP", FROM6, TO6, None, None, "later_fragment")],
    ),
    "extension headers": ([V6 / OPTIONS / DATAGRAM], [("UDP", FROM6, TO6, *PLAIN)]),
    "too many extension headers": (
        [V6 / MANY / DATAGRAM],
        [("other (too many headers)", FROM6, TO6, None, None, "too_many_headers")],
    ),
    "ICMP": ([V4 / ICMP() / Raw(bytes(56))], [("ICMP", FROM, TO, *NONE)]),
    "ICMPv6": ([V6 / ICMPv6EchoRequest(data=bytes(56))], [("ICMPv6", FROM6, TO6, *NONE)]),
    "GRE": ([V4 / GRE() / IP() / UDP()], [("GRE", FROM, TO, *NONE)]),
    "ESP": ([V4 / ESP(spi=1, seq=1, data=bytes(40))], [("ESP", FROM, TO, None, None, "encrypted")]),
    "a protocol without a name": (
        [ETHER / IP(src=FROM, dst=TO, proto=253) / Raw(bytes(40))],
        [("IP-253", FROM, TO, *NONE)],
    ),
    "ARP": ([ETHER / ARP(psrc=FROM, pdst=TO)], [("ARP", C, S, None, None, "not_ip")]),
    "ARP in a VLAN": ([ETHER / Dot1Q(vlan=7) / ARP()], [("ARP", C, S, None, None, "not_ip", 7)]),
    "LLC": ([Dot3(src=C, dst=S) / LLC() / STP()], [("LLC", C, S, None, None, "not_ip")]),
    "an ethertype without a name": (
        [Ether(src=C, dst=S, type=EXPERIMENTAL) / Raw(bytes(50))],
        [("0x88b5", C, S, None, None, "not_ip")],
    ),
    "a header cut off": (
        [ETHER / IP(src=FROM, dst=TO, proto=6, len=30) / Raw(bytes(10))],
        [("other (truncated)", FROM, TO, None, None, "truncated")],
    ),
    "a wrong version": (
        [ETHER / IP(version=5, src=FROM, dst=TO) / DATAGRAM],
        [("other (malformed)", C, S, None, None, "malformed")],
    ),
}

# A bridge that has firewall rules looked at (br_netfilter) drops these itself.
STOPPED = ("a wrong version",)


def told(row):
    """Return a row of connections in the words of the cases, with packets and bytes."""
    row = as_dict(row, {})
    names = ("protocol", "source", "destination", "sport", "dport", "problem", "vlan", "inner_vlan", "packets", "bytes")
    return tuple(row[name] for name in names)


def at(totals, host, direction):
    """Return what was counted at a host's interface, but for the kernel's own MLD reports."""
    rows = traffic.from_first_sender(traffic.connections(totals[totals["ifindex"] == host.ifindex]))
    said = [(row["direction"], told(row)) for row in rows]
    return sorted(map(str, (it for way, it in said if way == direction and not str(it[2]).startswith("ff02:"))))


def test_every_frame_under_its_own_name(net):
    """F3, F5: at egress and at ingress, with the VLAN tag in the frame and beside it: never a wrong port, every byte counted."""
    for name, (frames, truths) in CASES.items():
        with record("flows", devices=net.devices) as recorder:
            send(net.client.name, [raw(frame) for frame in frames])
            net.quiesce()
        summed = {}
        for frame, truth in zip(frames, truths, strict=True):
            truth = (*truth, None, None)[:8]  # noqa: PLW2901 (no VLAN said, no VLAN meant)
            packets, size = summed.get(truth, (0, 0))
            summed[truth] = packets + 1, size + len(raw(frame))
        expected = sorted(str(truth + sums) for truth, sums in summed.items())
        totals = recorder.recording.totals["flows"]
        assert at(totals, net.client, Direction.EGRESS) == expected, name
        assert at(totals, net.server, Direction.INGRESS) == expected or name in STOPPED, name


@pytest.mark.parametrize("version", [4, 6])
def test_ping(net, version):
    """F5: an echo request and its reply, each in its direction."""
    family, protocol = {4: (socket.AF_INET, socket.IPPROTO_ICMP), 6: (socket.AF_INET6, socket.IPPROTO_ICMPV6)}[version]
    request = struct.pack("!BBHHH", {4: 8, 6: 128}[version], 0, 0, 1, 1) + bytes(56)
    if version == 4:
        request = request[:2] + struct.pack("!H", 0xFFFF ^ (0x0800 + 1 + 1)) + request[4:]
    with (
        inside(net.client.name, lambda: socket.socket(family, socket.SOCK_RAW, protocol)) as sock,
        record("flows", devices=net.devices) as recorder,
    ):
        sock.settimeout(20)
        sock.sendto(request, (net.server.address(version), 0))
        sock.recv(2000)
    rows = [as_dict(row, {}) for row in traffic.pairs(recorder.recording.totals["flows"])]
    ends = (net.client.address(version), net.server.address(version))
    size = 14 + {4: 20, 6: 40}[version] + 64
    for pair in (ends, ends[::-1]):
        found = [row for row in rows if (row["source"], row["destination"]) == pair]
        assert {row["direction"] for row in found} == {"egress", "ingress"}
        assert {(row["protocol"], row["packets"], row["bytes"]) for row in found} == {
            ({4: "ICMP", 6: "ICMPv6"}[version], 1, size)
        }
