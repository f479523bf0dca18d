"""bpf/include/packet_parser.inc.h on frames whose truth is known, run by the kernel without a network (BPF_PROG_TEST_RUN).

F3: VLAN tags, IP options, fragments and IPv6 extension headers give the right ports, or none and the reason; never a wrong port.
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
WHOLE, BROKEN, CUT = 1300, 290, 100  # examples: 10,000 frames compared with scapy, and 100 cut off wherever they can be
thoroughly = settings(
    deadline=None,
    derandomize=True,
    max_examples=WHOLE,
    phases=set(Phase) - {Phase.explain},
    suppress_health_check=[HealthCheck.too_slow],
)
XDP_PASS = 2
PORTLESS = (Problem.NOT_IP, Problem.NO_PORTS, Problem.ENCRYPTED)
LARGEST = 3000  # bytes that surely fit in the page which a program is run on
Parse = Callable[[Sequence[bytes]], Iterator[tuple[int, np.void]]]


def compile_source(folder: Path, hook: str, header: str = '#include "include/packet_parser.inc.h"') -> Parse:
    """Compile the parser for a hook; what it makes parses frames in the kernel and yields each one's number and what was read.

    A frame that the kernel would show no program at that hook is passed over.
    """
    source = folder / f"{hook}.c"
    source.write_text(PARSER.replace('#include "include/packet_parser.inc.h"', header) % HOOKS[hook])
    program = Program(source)

    def shown(data):
        try:
            prog_test_run(program.fds[0], data)
        except OSError as error:
            # A frame without a whole IP header is refused for TC; a network would deliver it.
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
    """Parse frames at both hooks."""
    folder = tmp_path_factory.mktemp("parser")
    parsers = [compile_source(folder, hook) for hook in HOOKS]
    return lambda frames: chain.from_iterable(parse(frames) for parse in parsers)


def is_right(parsed: np.void, frame: Frame) -> bool:
    """Tell whether everything that was read in a frame is true."""
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
    """F3: whatever is easily misread is read right, and where there are no ports the reason is the right one."""
    frames = [frame for frame in unusual() if len(frame.data) <= LARGEST]
    for number, parsed in parse([frame.data for frame in frames]):
        assert is_right(parsed, frames[number]), frames[number].name


@given(frame=whole_frames())
@thoroughly
def test_whole_frames(parse, frame):
    """F3: of a frame without a fault everything is right, and scapy reads the same ports."""
    for _, parsed in parse([frame.data]):
        assert is_right(parsed, frame), parsed
    if not frame.problem:
        assert ports_by_scapy(frame.data) == (frame.sport, frame.dport)


@given(frame=whole_frames())
@settings(thoroughly, max_examples=CUT)
def test_frames_that_are_cut_off(parse, frame):
    """F3: a frame that ends within its headers has no ports and says so; one that ends behind them has the right ones."""
    for number, parsed in parse([frame.data[:length] for length in range(14, len(frame.data))]):
        whole = not frame.problem and 14 + number >= frame.ports_end
        assert (parsed["sport"], parsed["dport"]) == ((frame.sport, frame.dport) if whole else (0, 0))
        assert (parsed["problem"] == 0) == whole


@given(frames=broken_frames())
@settings(thoroughly, max_examples=BROKEN)
def test_broken_frames(parse, frames):
    """F3: whatever the bytes are, ports are those that scapy reads, or zero; where it finds none there are none."""
    expected = [ports_by_scapy(frame) for frame in frames]
    for number, parsed in parse(frames):
        ports = (parsed["sport"], parsed["dport"])
        if parsed["problem"]:
            assert ports == (0, 0), frames[number].hex()
            # What ends too early or contradicts itself scapy reads as far as it goes.
            assert expected[number] is None or parsed["problem"] not in PORTLESS, frames[number].hex()
        else:
            assert ports == expected[number], frames[number].hex()


def test_how_many():
    """Ten thousand frames are compared with what scapy reads in them."""
    assert WHOLE + BROKEN * BROKEN_AT_ONCE >= 10_000


@pytest.mark.parametrize("define", ["PORT=0", "SNAPLEN=256"])
def test_frames_go_on_unchanged(tmp_path, define):
    """X1: XDP_PASS for every frame, whole or broken, also when the ring is full; not a byte is changed, no event is mislaid."""
    tiny = re.sub(r"(BPF_RINGBUF_OUTPUT\(events, )\d+", r"\g<1>1", (SOURCES / "packets.c").read_text())
    source = tmp_path / "tiny.c"
    source.write_text(tiny)
    program = Program(source, sorted({"PORT=0", define}))
    sent = 0

    @given(frames=whole_frames().map(lambda frame: [frame.data]) | broken_frames())
    @settings(thoroughly, max_examples=50)
    def goes_on(frames):
        nonlocal sent
        sent += len(frames)
        for frame in frames:
            assert prog_test_run(program.fds[0], frame) == (XDP_PASS, frame)

    goes_on()
    delivered = len(program.ring.drain())
    assert 0 < delivered < sent
    assert delivered + program.lost() == sent


WRONG = {
    "IP options overlooked": (r"ip_at \+ ip\.ihl \* 4", "ip_at + 20"),
    "fragments overlooked": (r"return LATER_FRAGMENT;", "{}"),
    "padding read as ports": (r"packet->ip_length && packet->transport_at \+ size >", "false &&"),
    "only one VLAN tag": (r"i < MOST_TAGS", "i < 1"),
    "VLAN id with its priority bits": (r" & 0xfff", ""),
    "AH measured like the others": (r"\(extension\.length \+ 2\) \* 4;", "(extension.length + 1) * 8;"),
    "S6: port in network order": (r"bpf_ntohs\(tcp\.dest\)", "tcp.dest"),
}


@pytest.mark.parametrize(("pattern", "replacement"), WRONG.values(), ids=WRONG)
def test_a_parser_that_is_wrong(tmp_path, pattern, replacement):
    """A parser with a fault that others have had is caught by some unusual frame."""
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
