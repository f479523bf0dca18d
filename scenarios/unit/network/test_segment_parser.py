"""The parser of TCP segments: every supported header is parsed, and all other frames are skipped."""

import struct
from ipaddress import ip_address

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.network import segment_parser
from lab.network.frame_log import FRAME, HEAD_BYTES, Direction, WireLog
from lab.packet import ACK, PSH, SYN
from lab.tcp import Flow

V4 = Flow("192.0.2.1", 40000, "192.0.2.2", 9999)
V6 = Flow("2001:db8::1", 40000, "2001:db8::2", 9999)
TAG = bytes.fromhex("81000064")
OUTER_TAG = bytes.fromhex("88a80064")


def frame(
    flow,
    payload=b"",
    *,
    seq=1,
    ack=0,
    flags=ACK,
    tags=b"",
    ip_options=b"",
    tcp_options=b"",
    protocol=6,
    fragment=0,
):
    """Return a frame; its checksums are 0."""
    source, target = ip_address(flow.laddr).packed, ip_address(flow.raddr).packed
    offset = (20 + len(tcp_options)) // 4 << 4
    tcp = struct.pack("!HHIIBBHHH", flow.lport, flow.rport, seq, ack, offset, flags, 0, 0, 0) + tcp_options + payload
    if len(source) == 4:
        kind, first, total = 0x0800, 0x45 + len(ip_options) // 4, 20 + len(ip_options) + len(tcp)
        ip = struct.pack("!BBHHHBBH", first, 0, total, 0, fragment, 64, protocol, 0) + source + target + ip_options
    else:
        kind, ip = 0x86DD, struct.pack("!IHBB", 6 << 28, len(tcp), protocol, 64) + source + target
    return bytes(12) + tags + struct.pack("!H", kind) + ip + tcp


def parsed(*frames, padding=0):
    """Parse frames in the form of a log."""
    heads = np.zeros((len(frames), HEAD_BYTES), np.uint8)
    for head, data in zip(heads, frames, strict=True):
        head[: len(data)] = np.frombuffer(data[:HEAD_BYTES], np.uint8)
    return segment_parser.parse(heads, np.array([len(data) + padding for data in frames], np.uint32))


@pytest.mark.parametrize("flow", [V4, V6], ids=["v4", "v6"])
@pytest.mark.parametrize("tags", [b"", TAG, OUTER_TAG + TAG], ids=["plain", "vlan", "qinq"])
@pytest.mark.parametrize("tcp_options", [b"", bytes(40)], ids=["short", "options"])
def test_a_segment_is_read(flow, tags, tcp_options):
    """Ports, numbers, flags and payload are read from frames with different headers in one call."""
    whole = frame(flow, b"x" * 1000, seq=2**32 - 1, ack=7, flags=PSH | ACK, tags=tags, tcp_options=tcp_options)
    found = parsed(b"\0" * 14, whole, frame(V4, b"y"))
    assert list(found["frame"]) == [1, 2]
    assert list(found["payload"]) == [1000, 1]
    assert (found["seq"][0], found["ack"][0], found["flags"][0]) == (2**32 - 1, 7, PSH | ACK)
    assert list(segment_parser.belongs(found, flow)) == [True, flow == V4]
    assert not segment_parser.belongs(found, flow.reversed()).any()


def test_padding_is_no_payload():
    """The padding of a short frame does not count as payload."""
    assert list(parsed(frame(V4), padding=6)["payload"]) == [0]


def test_ip_options_are_skipped():
    """The IP header's own length is used."""
    assert segment_parser.belongs(parsed(frame(V4, b"abc", ip_options=bytes(40))), V4)[0]


NONE = {
    "udp": frame(V4, b"x", protocol=17),
    "later fragment": frame(V4, b"x", fragment=100),
    "extension header": frame(V6, b"x", protocol=43),
    "not ip": bytes(12) + b"\x08\x06" + bytes(50),
    "cut off": frame(V4)[:40],
    "wrong version": frame(V4)[:14] + b"\x65" + frame(V4)[15:],
    "header too short": frame(V4)[:14] + b"\x42" + frame(V4)[15:],
    "offset too short": frame(V4)[:46] + b"\x10" + frame(V4)[47:],
    "longer header than packet": frame(V4)[:46] + b"\xf0" + frame(V4)[47:],
    "empty": b"",
}


@pytest.mark.parametrize("data", NONE.values(), ids=NONE)
def test_other_frames_are_skipped(data):
    """A frame without a readable TCP header gives no segment."""
    assert len(parsed(data)) == 0
    assert list(parsed(frame(V4), data, frame(V6))["frame"]) == [0, 2]


def test_the_first_fragment_has_the_header():
    """A first fragment is a segment of its flow."""
    assert len(parsed(frame(V4, b"x", fragment=0x2000))) == 1


@settings(deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=20))
def test_any_bytes(frames):
    """Arbitrary bytes are parsed or skipped, without an error."""
    assert len(parsed(*frames)) <= len(frames)


def test_an_empty_log():
    """An empty log has no segments."""
    empty = WireLog(np.zeros(0, FRAME))
    assert len(empty.tcp(V4)) == 0
    assert len(empty.going(Direction.TO_SERVER)) == 0
    assert len(segment_parser.retransmitted(empty.tcp())) == 0


def sent(*pieces, flags=ACK):
    """Parse segments of (sequence number, payload's length)."""
    return parsed(*(frame(V4, b"x" * length, seq=seq % 2**32, flags=flags) for seq, length in pieces))


RETRANSMISSIONS = {
    "in order": ([(1, 10), (11, 10), (21, 10)], [False] * 3),
    "the same again": ([(1, 10), (11, 10), (1, 10)], [False, False, True]),
    "late, not again": ([(1, 10), (21, 10), (11, 10)], [False] * 3),
    "two in one": ([(1, 10), (11, 10), (1, 20)], [False, False, True]),
    "one in two": ([(1, 20), (1, 10), (11, 10)], [False, True, True]),
    "partly new": ([(1, 10), (5, 10), (15, 5)], [False, True, False]),
    "acknowledgements": ([(1, 10), (11, 0), (11, 0), (11, 5)], [False] * 4),
    "over the end of the numbers": ([(2**32 - 5, 10), (5, 10), (2**32 - 5, 10)], [False, False, True]),
}


@pytest.mark.parametrize(("pieces", "again"), RETRANSMISSIONS.values(), ids=RETRANSMISSIONS)
def test_retransmissions(pieces, again):
    """A segment that repeats sequence space is found, however the data is segmented."""
    assert list(segment_parser.retransmitted(sent(*pieces))) == again


def test_a_repeated_syn():
    """A SYN takes a sequence number, so a second SYN is a retransmission."""
    found = sent((0, 0), (0, 0), flags=SYN)
    assert list(segment_parser.opens(found)) == [True, True]
    assert list(segment_parser.retransmitted(found)) == [False, True]
