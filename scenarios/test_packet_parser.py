"""bpf/packet.h against frames whose truth is known, run in the kernel on frames that nobody has sent (BPF_PROG_TEST_RUN).

F3: VLAN tags, IP options, fragments and IPv6 extension headers give the right ports, or none and the reason; never a wrong port.
"""

import errno
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from parser_frames import (
    ENCRYPTED,
    LATER,
    MALFORMED,
    MOST_HEADERS,
    NO_PORTS,
    NOT_IP,
    TOO_MANY,
    TRUNCATED,
    Frame,
    broken_frames,
    ports_by_scapy,
    whole_frames,
)
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.ipsec import AH, ESP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from variants import altered

from lab.bpf_syscall import prog_test_run
from lab.packet import PROBLEMS
from lab.program import SOURCES, Program

PARSER = """
#include "lab.h"
#define LOAD %(load)s
#include "packet.h"

struct parsed {
    u32 seq;
    u32 ack;
    u32 ip_end;
    u16 sport;
    u16 dport;
    u16 vlan;
    u16 inner_vlan;
    u16 payload_at;
    u8 flags;
    u8 fragment;
    u8 problem;
};

BPF_RINGBUF_OUTPUT(events, 16);

%(head)s
{
    struct packet packet = {};
    struct parsed *parsed = events.ringbuf_reserve(sizeof(struct parsed));

    if (!parsed)
        return -1;
    parse_frame(ctx, &packet);
    parsed->seq = packet.seq;
    parsed->ack = packet.ack;
    parsed->ip_end = packet.ip_length ? packet.ip_at + packet.ip_length : FRAME_LENGTH(ctx);
    parsed->sport = packet.sport;
    parsed->dport = packet.dport;
    parsed->vlan = packet.vlan;
    parsed->inner_vlan = packet.inner_vlan;
    parsed->payload_at = packet.payload_at;
    parsed->flags = packet.flags;
    parsed->fragment = packet.fragment;
    parsed->problem = packet.problem;
    events.ringbuf_submit(parsed, BPF_RB_NO_WAKEUP);
    return %(verdict)s;
}
"""
HOOKS = {
    "XDP": {"load": "load_xdp", "head": "ON_XDP(frame)", "verdict": "XDP_PASS"},
    "TC": {"load": "load_skb", "head": "ON_TC(ingress)", "verdict": "TC_ACT_OK"},
}
ROUNDS = 667  # of each of three properties: 2,000 frames
thoroughly = settings(
    deadline=None,
    derandomize=True,
    max_examples=ROUNDS,
    phases=set(Phase) - {Phase.explain},
    suppress_health_check=[HealthCheck.too_slow],
)
XDP_PASS = 2
Parse = Callable[[bytes], np.void | None]


def compiled(folder: Path, hook: str, header: str = '#include "packet.h"') -> Parse:
    """Compile the parser for a hook; what it makes parses a frame in the kernel, None where that shows no program the frame."""
    source = folder / f"{hook}.c"
    source.write_text(PARSER.replace('#include "packet.h"', header) % HOOKS[hook])
    program = Program(source)

    def parse(data):
        try:
            prog_test_run(program.fds[0], data)
        except OSError as error:
            # A frame without a whole IP header is refused for TC; a network would deliver it.
            if error.errno != errno.EINVAL or hook != "TC" or len(data) >= 14 + 40:
                raise
            return None
        (parsed,) = program.ring.drain()
        return parsed

    return parse


@pytest.fixture(scope="module")
def parse(tmp_path_factory):
    """Parse a frame at both hooks; gives what each of them has read."""
    folder = tmp_path_factory.mktemp("parser")
    parsers = [compiled(folder, hook) for hook in HOOKS]
    return lambda data: [parsed for parsed in (parse(data) for parse in parsers) if parsed is not None]


def is_right(parsed: np.void, frame: Frame) -> bool:
    """Tell whether everything that was read in a frame without a fault is true."""
    length = int(parsed["ip_end"]) - int(parsed["payload_at"]) if not frame.problem else 0
    return (
        PROBLEMS[parsed["problem"]] == frame.problem
        and (parsed["sport"], parsed["dport"]) == (frame.sport, frame.dport)
        and (parsed["vlan"], parsed["inner_vlan"]) == (*frame.vlans, 0, 0)[:2]
        and bool(parsed["fragment"]) == frame.fragment
        and (parsed["flags"], parsed["seq"], parsed["ack"]) == (frame.flags, frame.seq, frame.ack)
        and length == frame.payload
    )


@given(frame=whole_frames())
@thoroughly
def test_whole_frames(parse, frame):
    """F3: of a frame without a fault everything is right, and scapy reads the same ports."""
    for parsed in parse(frame.data):
        assert is_right(parsed, frame), parsed
    if not frame.problem:
        assert ports_by_scapy(frame.data) == (frame.sport, frame.dport)


@given(frame=whole_frames(), data=st.data())
@thoroughly
def test_frames_that_are_cut_off(parse, frame, data):
    """F3: a frame that ends within its headers has no ports and says so; one that ends behind them has the right ones."""
    length = data.draw(st.integers(14, len(frame.data)))
    whole = not frame.problem and length >= frame.ports_end
    for parsed in parse(frame.data[:length]):
        assert (parsed["sport"], parsed["dport"]) == ((frame.sport, frame.dport) if whole else (0, 0))
        assert (parsed["problem"] == 0) == whole


@given(frame=broken_frames())
@thoroughly
def test_broken_frames(parse, frame):
    """F3: whatever the bytes are, ports are those that scapy reads, or zero with a reason."""
    for parsed in parse(frame):
        ports = (parsed["sport"], parsed["dport"])
        if parsed["problem"]:
            assert ports == (0, 0)
        else:
            assert ports == ports_by_scapy(frame)


ETHERNET = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
ADDRESSES = {"src": "192.0.2.1", "dst": "192.0.2.2"}
PORTS = {"sport": 9999, "dport": 9999}
REASONS = {
    "ARP": Frame(bytes(ETHERNET / ARP()), NOT_IP),
    "three tags": Frame(
        bytes(ETHERNET / Dot1Q(vlan=1) / Dot1Q(vlan=2) / Dot1Q(vlan=3) / IP(**ADDRESSES) / UDP(**PORTS)),
        NOT_IP,
        vlans=(1, 2),
    ),
    "half a TCP header": Frame(bytes(ETHERNET / IP(**ADDRESSES) / TCP(**PORTS))[:50], TRUNCATED),
    "ports in the padding": Frame(bytes(ETHERNET / IP(**ADDRESSES, proto=17)) + b"\x27\x0f" * 13, TRUNCATED),
    "IPv6 without payload": Frame(bytes(ETHERNET / IPv6(nh=17, plen=0)) + b"\x27\x0f" * 13, TRUNCATED),
    "IP header of 16 bytes": Frame(bytes(ETHERNET / IP(**ADDRESSES, ihl=4) / UDP(**PORTS)), MALFORMED),
    "IP packet shorter than its header": Frame(bytes(ETHERNET / IP(**ADDRESSES, len=19) / UDP(**PORTS)), MALFORMED),
    "IP packet without length": Frame(bytes(ETHERNET / IP(**ADDRESSES, len=0) / UDP(**PORTS)), MALFORMED),
    "version 6 in IPv4": Frame(bytes(ETHERNET / IP(**ADDRESSES, version=6) / UDP(**PORTS)), MALFORMED),
    "TCP header of 16 bytes": Frame(bytes(ETHERNET / IP(**ADDRESSES) / TCP(**PORTS, dataofs=4)), MALFORMED),
    "AH of 8 bytes": Frame(bytes(ETHERNET / IP(**ADDRESSES) / AH(payloadlen=0) / UDP(**PORTS)), MALFORMED),
    "later fragment": Frame(bytes(ETHERNET / IP(**ADDRESSES, frag=1) / UDP(**PORTS)), LATER, fragment=True),
    "ICMP": Frame(bytes(ETHERNET / IP(**ADDRESSES) / ICMP()), NO_PORTS),
    "ESP": Frame(bytes(ETHERNET / IP(**ADDRESSES) / ESP(spi=9999 << 16 | 9999, seq=1)), ENCRYPTED),
}


@pytest.mark.parametrize("define", ["PORT=0", "SNAPLEN=256"])
def test_frames_go_on_unchanged(tmp_path, define):
    """X1: XDP_PASS for every frame, whole or broken, also when the ring is full; not a byte is changed, no event is mislaid."""
    tiny = re.sub(r"(BPF_RINGBUF_OUTPUT\(events, )\d+", r"\g<1>1", (SOURCES / "packets.c").read_text())
    source = tmp_path / "tiny.c"
    source.write_text(tiny)
    program = Program(source, sorted({"PORT=0", define}))
    sent = 0

    @given(frame=whole_frames().map(lambda frame: frame.data) | broken_frames())
    @settings(thoroughly, max_examples=200)
    def goes_on(frame):
        nonlocal sent
        sent += 1
        assert prog_test_run(program.fds[0], frame) == (XDP_PASS, frame)

    goes_on()
    delivered = len(program.ring.drain())
    assert 0 < delivered < sent
    assert delivered + program.lost() == sent


WRONG = {
    "IP options overlooked": (r"ip_at \+ ip\.ihl \* 4", "ip_at + 20"),
    "fragments overlooked": (r"return LATER_FRAGMENT;", "{}"),
    "padding read as ports": (r"packet->ip_length && packet->transport_at \+ size >", "false &&"),
    "only one VLAN tag": (r"i < 2", "i < 1"),
    "VLAN id with its priority bits": (r" & 0xfff", ""),
    "AH measured like the others": (r"\(extension\.length \+ 2\) \* 4;", "(extension.length + 1) * 8;"),
    "S6: port in network order": (r"bpf_ntohs\(tcp\.dest\)", "tcp.dest"),
}


@pytest.mark.parametrize(("pattern", "replacement"), WRONG.values(), ids=WRONG)
def test_a_parser_that_is_wrong(tmp_path, pattern, replacement):
    """A parser with a fault that others have had is caught, by some frame."""
    header = altered((SOURCES / "packet.h").read_text().replace("#pragma once", ""), (pattern, replacement))
    parse = compiled(tmp_path, "XDP", header)
    frames = st.sampled_from(list(REASONS.values())) | whole_frames()
    find(frames, lambda frame: not is_right(parse(frame.data), frame), settings=thoroughly)


@pytest.mark.parametrize("frame", REASONS.values(), ids=REASONS)
def test_reasons(parse, frame):
    """F3: each reason for which there are no ports, by its name."""
    for parsed in parse(frame.data):
        assert is_right(parsed, frame), parsed


@pytest.mark.parametrize(("count", "problem"), [(MOST_HEADERS, ""), (MOST_HEADERS + 1, TOO_MANY)])
def test_extension_headers_have_a_limit(parse, count, problem):
    """F3: as many extension headers as are looked through, and one more."""
    layers = ETHERNET / IPv6()
    for _ in range(count):
        layers /= IPv6ExtHdrDestOpt()
    for parsed in parse(bytes(layers / UDP(sport=80, dport=9999))):
        assert PROBLEMS[parsed["problem"]] == problem
        assert parsed["dport"] == (0 if problem else 9999)


def test_a_priority_tag_is_no_vlan(parse):
    """F3: a tag of id 0 says nothing about a VLAN, and the one behind it does."""
    tagged = ETHERNET / Dot1Q(vlan=0, prio=5) / Dot1Q(vlan=7) / IP(**ADDRESSES) / UDP(sport=80, dport=9999)
    for parsed in parse(bytes(tagged)):
        assert (parsed["vlan"], parsed["inner_vlan"], parsed["dport"]) == (7, 0, 9999)
