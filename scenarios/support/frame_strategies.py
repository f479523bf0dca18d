"""Frames made up by hypothesis, whole and broken, and what scapy reads in them.

What lives here: how to build a frame together with the truth about it, and how to ask another parser. What does not: any
expectation of a single test.
"""

from collections import Counter

from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_RR
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.ipsec import AH, ESP
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Raw, bind_bottom_up, bind_layers, split_layers

from lab.packet import Problem
from lab.traffic.crafted.frames import Frame, made
from lab.traffic.crafted.unusual_frames import MOST_HEADERS

_EXTENSIONS = {
    0: IPv6ExtHdrHopByHop,
    43: IPv6ExtHdrRouting,
    44: IPv6ExtHdrFragment,
    60: IPv6ExtHdrDestOpt,
}
MOST_TAGS = 2  # that bpf/include/packet_parser.inc.h looks behind
_KIND = {IP: "IP", IPv6: "IP", Dot1Q: "tag", Dot1AD: "tag"}
_BEFORE_PORTS = (Ether, Dot1Q, Dot1AD, IP, IPv6, AH, *_EXTENSIONS.values())

# Scapy knows what is behind an authentication header in a tunnel only, and takes its hop-by-hop options for IPv4.
split_layers(AH, IP, nh=0)
for number, above in {**_EXTENSIONS, 1: ICMP, 6: TCP, 17: UDP, 50: ESP, 51: AH}.items():
    bind_layers(AH, above, nh=number)
for extension in _EXTENSIONS.values():
    for number, above in {50: ESP, 51: AH}.items():
        bind_layers(extension, above, nh=number)
# It does not know UDP-Lite, whose ports are where UDP's are (RFC 3828).
bind_bottom_up(IP, UDP, proto=136)
for below in (IPv6, AH, *_EXTENSIONS.values()):
    bind_bottom_up(below, UDP, nh=136)


_port = st.integers(1, 65535)
_word = st.integers(0, 2**32 - 1)


def _tcp(draw):
    layer = TCP(sport=draw(_port), dport=draw(_port), seq=draw(_word), ack=draw(_word), flags=draw(st.integers(0, 255)))
    if draw(st.booleans()):
        layer.options = [("MSS", 1460), ("NOP", None), ("WScale", 7), ("Timestamp", (1, 2))][: draw(st.integers(0, 4))]
    return layer


def _udp(draw):
    return UDP(sport=draw(_port), dport=draw(_port))


_TRANSPORTS = {"TCP": _tcp, "UDP": _udp, "ICMP": lambda _: ICMP(), "ESP": lambda _: ESP(spi=9999, seq=9999)}


def _ah(signature):
    return AH(icv=bytes(signature), payloadlen=(12 + signature) // 4 - 2)


def _extension(draw, kind):
    """One IPv6 extension header."""
    options = [PadN(optdata=bytes(draw(st.integers(0, 20))))]
    return {
        "hop-by-hop": lambda: IPv6ExtHdrHopByHop(options=options),
        "destination": lambda: IPv6ExtHdrDestOpt(options=options),
        "routing": lambda: IPv6ExtHdrRouting(addresses=["2001:db8::9"] * draw(st.integers(0, 3)), segleft=0),
        # In IPv6 its length is a multiple of 8: 12 bytes and a signature of 4 or 12.
        "AH": lambda: _ah(draw(st.sampled_from([4, 12]))),
        "atomic fragment": lambda: IPv6ExtHdrFragment(offset=0, m=0),
        "first fragment": lambda: IPv6ExtHdrFragment(offset=0, m=1),
        "later fragment": lambda: IPv6ExtHdrFragment(offset=draw(st.integers(1, 8191)), m=draw(st.integers(0, 1))),
    }[kind]()


_KINDS = ("hop-by-hop", "destination", "routing", "AH", "atomic fragment")


def _ipv6(draw):
    kinds = draw(st.lists(st.sampled_from(_KINDS), max_size=MOST_HEADERS + 2))
    fragment = draw(st.sampled_from(["", "", "first fragment", "later fragment"]))
    if fragment:
        kinds.append(fragment)
    layers = [IPv6(src="2001:db8::1", dst="2001:db8::2"), *(_extension(draw, kind) for kind in kinds)]
    if len(kinds) > MOST_HEADERS:
        return layers, {"problem": Problem.TOO_MANY_HEADERS, "fragment": False}
    return layers, {"problem": Problem.LATER_FRAGMENT} if fragment == "later fragment" else {}


def _ipv4(draw):
    options = draw(st.lists(st.sampled_from([IPOption_NOP(), IPOption_RR(routers=["192.0.2.9"])]), max_size=4))
    fragment = draw(st.sampled_from(["", "", "first", "later"]))
    header = IP(
        src="192.0.2.1",
        dst="192.0.2.2",
        options=options,
        flags="MF" if fragment == "first" else draw(st.sampled_from(["", "DF"])),
        frag=draw(st.integers(1, 8191)) if fragment == "later" else 0,
    )
    layers = [header]
    if draw(st.integers(0, 5)) == 0:
        layers.append(_ah(draw(st.sampled_from([0, 4, 12]))))
    return layers, {"problem": Problem.LATER_FRAGMENT} if fragment == "later" else {}


@st.composite
def whole_frames(draw) -> Frame:
    """Frames without a fault, some padded to the least size of Ethernet."""
    layers = [Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")]
    vlans = draw(st.lists(st.integers(1, 4094), max_size=2))
    for number, vlan in enumerate(vlans):
        tag = Dot1AD if number < len(vlans) - 1 else Dot1Q
        layers.append(tag(vlan=vlan, prio=draw(st.integers(0, 7))))
    if draw(st.integers(0, 9)) == 0:
        return made("ARP", *layers, ARP())
    network, said = draw(st.sampled_from([_ipv4, _ipv6]))(draw)
    name = draw(st.sampled_from(["TCP", "TCP", "UDP", "ICMP", "ESP"]))
    transport = _TRANSPORTS[name](draw)
    payload = draw(st.integers(0, 80))
    pad = draw(st.sampled_from([b"", b"\xee"]))
    return made(name, *layers, *network, transport, Raw(bytes(payload)), pad=pad, **said)


BROKEN_AT_ONCE = 30


class Broken(list):
    """Frames, which a failed assertion names one by one."""

    def __repr__(self):
        return f"{len(self)} broken frames"


@st.composite
def broken_frames(draw) -> Broken:
    """One frame, broken in many ways: bytes changed, and perhaps its end cut off."""
    whole = draw(whole_frames()).data
    # Many draws of hypothesis cost more than all that is done with what they gave: one of them is enough.
    random = draw(st.randoms(use_true_random=True))
    return Broken(broken(whole, random) for _ in range(BROKEN_AT_ONCE))


def broken(whole, random):
    data = bytearray(whole)
    for _ in range(random.randint(1, 4)):
        data[random.randint(12, min(len(data) - 1, 120))] = random.randint(0, 255)
    return bytes(data[: random.choice([random.randint(14, len(data)), len(data)])])


def ports_by_scapy(data: bytes) -> tuple[int, int] | None:
    """Return the ports that scapy reads in a frame, None when it finds no TCP or UDP header directly behind the first IP's."""
    layer = Ether(data)
    before = Counter()
    while type(layer) in _BEFORE_PORTS:
        before[_KIND.get(type(layer))] += 1
        layer = layer.payload
    if before["IP"] > 1 or before["tag"] > MOST_TAGS:
        return None
    return (layer.sport, layer.dport) if type(layer) in (TCP, UDP) else None
