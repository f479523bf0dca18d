"""The packet parser (`bpf/include/packet_parser.inc.h`) on known frames, run by BPF_PROG_TEST_RUN without a network.

F3: with VLAN tags, IP options, fragments and IPv6 extension headers the ports are right, or absent with the right
reason.
"""

import errno
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from support.frame_strategies import BROKEN_AT_ONCE, broken_frames, ports_by_scapy, whole_frames
from support.mutants import altered

from lab.ebpf.program import Program
from lab.linux.bpf import prog_test_run
from lab.packet import Problem
from lab.paths import SOURCES
from lab.traffic.crafted.frames import Frame
from lab.traffic.crafted.unusual_frames import unusual

PARSER = """
#include "include/second_run.h"
#include "include/lost.h"
#include "include/kernel_read.h"
#define LOAD %(load)s
#include "include/packet_parser.inc.h"

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
    struct packet *packet = new_packet();
    struct parsed *parsed;

    if (!packet)
        return -1;
    parsed = events.ringbuf_reserve(sizeof(struct parsed));
    if (!parsed)
        return -1;
    parse_frame(ctx, packet);
    parsed->seq = packet->seq;
    parsed->ack = packet->ack;
    parsed->ip_end = packet->ip_length ? packet->ip_at + packet->ip_length : FRAME_LENGTH(ctx);
    parsed->sport = packet->sport;
    parsed->dport = packet->dport;
    parsed->vlan = packet->vlan;
    parsed->inner_vlan = packet->inner_vlan;
    parsed->payload_at = packet->payload_at;
    parsed->flags = packet->flags;
    parsed->fragment = packet->fragment;
    parsed->problem = packet->problem;
    events.ringbuf_submit(parsed, BPF_RB_NO_WAKEUP);
    return %(verdict)s;
}
"""
HOOKS = {
    "XDP": {"load": "load_xdp", "head": "ON_XDP(frame)", "verdict": "XDP_PASS"},
    "TC": {"load": "load_skb", "head": "ON_TC(ingress)", "verdict": "TC_ACT_OK"},
}
WHOLE, BROKEN, CUT = 1300, 290, 100  # examples: 10,000 frames compared with scapy, and 100 cut off at every length
thoroughly = settings(
    deadline=None,
    derandomize=True,
    max_examples=WHOLE,
    phases=set(Phase) - {Phase.explain},
    suppress_health_check=[HealthCheck.too_slow],
)
XDP_PASS = 2
PORTLESS = (Problem.NOT_IP, Problem.NO_PORTS, Problem.ENCRYPTED)
LARGEST = 3000  # bytes; fits in the page that BPF_PROG_TEST_RUN uses
Parse = Callable[[Sequence[bytes]], Iterator[tuple[int, np.void]]]


def compile_source(
    folder: Path, hook: str, header: str = '#include "include/packet_parser.inc.h"', defines: Sequence[str] = ()
) -> Parse:
    """Compile the parser for a hook and return a function that parses frames in the kernel.

    The function yields the index of each frame and the parsed fields. It skips frames that the kernel does not run at
    that hook.
    """
    source = folder / f"{hook}.c"
    source.write_text((PARSER % HOOKS[hook]).replace('#include "include/packet_parser.inc.h"', header))
    program = Program(source, defines)

    def shown(data):
        try:
            prog_test_run(program.fds[0], data)
        except OSError as error:
            # The kernel refuses a frame without a complete IP header for TC, although a network delivers it.
            if error.errno != errno.EINVAL or hook != "TC" or len(data) >= 14 + 40:
                raise
            return False
        return True

    def parse(frames):
        numbers = [number for number, data in enumerate(frames) if shown(data)]
        yield from zip(numbers, program.ring.drain(), strict=True)

    return parse


@pytest.fixture(scope="module")
def parse(tmp_path_factory):
    """Return a function that parses frames at both hooks."""
    folder = tmp_path_factory.mktemp("parser")
    parsers = [compile_source(folder, hook) for hook in HOOKS]
    return lambda frames: chain.from_iterable(parse(frames) for parse in parsers)


def is_right(parsed: np.void, frame: Frame) -> bool:
    """Return true if every field that was parsed from a frame is right."""
    end = min(int(parsed["ip_end"]), len(frame.data))
    return (
        parsed["problem"] == frame.problem
        and (parsed["sport"], parsed["dport"]) == (frame.sport, frame.dport)
        and (parsed["vlan"], parsed["inner_vlan"]) == (*frame.vlans, 0, 0)[:2]
        and bool(parsed["fragment"]) == frame.fragment
        and (parsed["flags"], parsed["seq"], parsed["ack"]) == (frame.flags, frame.seq, frame.ack)
        and bool(frame.problem) | (max(0, end - int(parsed["payload_at"])) == frame.payload)
    )


def test_unusual_frames(parse):
    """F3: unusual frames are parsed right, and frames without ports have the right reason."""
    frames = [frame for frame in unusual() if len(frame.data) <= LARGEST]
    for number, parsed in parse([frame.data for frame in frames]):
        assert is_right(parsed, frames[number]), frames[number].name


def test_packets_without_ethernet_headers(tmp_path):
    """F8: without Ethernet headers the parser begins at the kernel's network header."""
    parse = compile_source(tmp_path, "TC", defines=["NO_ETHERNET=1"])
    frames = [
        frame for frame in unusual() if len(frame.data) <= LARGEST and frame.data[12:14] in (b"\x08\x00", b"\x86\xdd")
    ]
    parsed = dict(parse([frame.data for frame in frames]))
    assert len(parsed) > 20
    assert [frames[number].name for number in parsed if not is_right(parsed[number], frames[number])] == []


@given(frame=whole_frames())
@thoroughly
def test_whole_frames(parse, frame):
    """F3: every field of a frame without a fault is right, and scapy finds the same ports."""
    for _, parsed in parse([frame.data]):
        assert is_right(parsed, frame), parsed
    if not frame.problem:
        assert ports_by_scapy(frame.data) == (frame.sport, frame.dport)


@given(frame=whole_frames())
@settings(thoroughly, max_examples=CUT)
def test_frames_that_are_cut_off(parse, frame):
    """F3: a frame that ends inside its headers has a reason and no ports; one that ends after them has the ports."""
    for number, parsed in parse([frame.data[:length] for length in range(14, len(frame.data))]):
        whole = not frame.problem and 14 + number >= frame.ports_end
        assert (parsed["sport"], parsed["dport"]) == ((frame.sport, frame.dport) if whole else (0, 0))
        assert (parsed["problem"] == 0) == whole


@given(frames=broken_frames())
@settings(thoroughly, max_examples=BROKEN)
def test_broken_frames(parse, frames):
    """F3: for any bytes the ports are those that scapy finds, or zero if it finds none."""
    expected = [ports_by_scapy(frame) for frame in frames]
    for number, parsed in parse(frames):
        ports = (parsed["sport"], parsed["dport"])
        if parsed["problem"]:
            assert ports == (0, 0), frames[number].hex()
            # scapy reads frames that are too short or inconsistent as far as possible.
            assert expected[number] is None or parsed["problem"] not in PORTLESS, frames[number].hex()
        else:
            assert ports == expected[number], frames[number].hex()


def test_the_number_of_examples():
    """The tests compare ten thousand frames with scapy."""
    assert WHOLE + BROKEN * BROKEN_AT_ONCE >= 10_000


@pytest.mark.parametrize("define", ["PORT=0", "SNAPLEN=256"])
def test_frames_are_passed_unchanged(tmp_path, define):
    """X1: every frame is passed unchanged, also with a full ring; each event is delivered or counted as lost."""
    tiny = re.sub(r"(BPF_RINGBUF_OUTPUT\(events, )\d+", r"\g<1>1", (SOURCES / "packets.c").read_text())
    source = tmp_path / "tiny.c"
    source.write_text(tiny)
    program = Program(source, sorted({"PORT=0", define}))
    sent = 0

    @given(frames=whole_frames().map(lambda frame: [frame.data]) | broken_frames())
    @settings(thoroughly, max_examples=50)
    def passes(frames):
        nonlocal sent
        sent += len(frames)
        for frame in frames:
            assert prog_test_run(program.fds[0], frame) == (XDP_PASS, frame)

    passes()
    delivered = len(program.ring.drain())
    assert 0 < delivered < sent
    assert delivered + program.lost() == sent


FAULTS = {
    "IP options ignored": (r"ip_at \+ ip\.ihl \* 4", "ip_at + 20"),
    "fragments ignored": (r"return LATER_FRAGMENT;", "{}"),
    "padding read as ports": (r"packet->ip_length && packet->transport_at \+ size >", "false &&"),
    "only one VLAN tag": (r"i < MOST_TAGS", "i < 1"),
    "VLAN id with its priority bits": (r" & 0xfff", ""),
    "AH measured like the others": (r"\(extension\.length \+ 2\) \* 4;", "(extension.length + 1) * 8;"),
    "S6: port in network order": (r"bpf_ntohs\(tcp\.dest\)", "tcp.dest"),
}


@pytest.mark.parametrize(("pattern", "replacement"), FAULTS.values(), ids=FAULTS)
def test_a_faulty_parser_is_detected(tmp_path, pattern, replacement):
    """At least one unusual frame detects a parser with a typical fault."""
    header = altered(
        (SOURCES / "include/packet_parser.inc.h").read_text().replace("#pragma once", ""), (pattern, replacement)
    )
    parse = compile_source(tmp_path, "XDP", header)
    frames = [frame for frame in unusual() if len(frame.data) <= LARGEST]
    wrong = [
        frames[number].name
        for number, parsed in parse([f.data for f in frames])
        if not is_right(parsed, frames[number])
    ]
    assert wrong
