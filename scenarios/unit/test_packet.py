"""Names and sums of packets' fields, and the text of the probe `packets`, from hand-made and random packets."""

import ipaddress

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lab.packet import ACK, SYN, TCP, distinct_bytes, flags_text, protocol_text
from lab.probes.packets import text
from lab.probes.packets.measure import arrival_of_byte, by_flow, packets_of
from lab.tcp import Flow

FRAME = np.dtype(
    [
        ("time_ns", "u8"),
        ("saddr", "u1", 16),
        ("daddr", "u1", 16),
        *((name, "u4") for name in ("ifindex", "seq", "ack", "frame_length", "payload_length")),
        *((name, "u2") for name in ("ethertype", "vlan", "inner_vlan", "sport", "dport")),
        *((name, "u1") for name in ("version", "protocol", "flags", "fragment", "problem")),
    ]
)
FLOW = Flow("192.0.2.1", 40000, "192.0.2.2", 9999)


def packed(address):
    mapped = address if ":" in address else f"::ffff:{address}"
    return list(ipaddress.IPv6Address(mapped).packed)


def packet(flow=FLOW, **fields):
    """Return one packet of a flow, like an event of the probe."""
    row = np.zeros((), FRAME)
    known = {"saddr": packed(flow.laddr), "sport": flow.lport, "daddr": packed(flow.raddr), "dport": flow.rport}
    known |= {"ifindex": 102, "ethertype": 0x0800, "version": 4, "protocol": TCP, "frame_length": 66}
    for name, value in (known | fields).items():
        row[name] = value
    return row


def stream(segments, isn=0):
    """Return sequence numbers and lengths of a SYN and of segments, which are given as (offset, length)."""
    seq = [isn, *(isn + 1 + offset for offset, _ in segments)]
    length = [0, *(length for _, length in segments)]
    return np.array(np.array(seq) % 2**32, np.uint32), np.array(length, np.uint32)


isns = st.integers(0, 2**32 - 1)
some_segments = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 50)), max_size=20)


@given(segments=some_segments, isn=isns)
def test_every_byte_is_counted_once(segments, isn):
    """The sum is the number of different bytes if segments overlap, repeat and wrap."""
    carried = {byte for offset, length in segments for byte in range(offset, offset + length)}
    assert distinct_bytes(*stream(segments, isn)) == len(carried)


@given(segments=some_segments, isn=isns, byte=st.integers(0, 250))
def test_the_first_segment_with_a_byte(segments, isn, byte):
    """The first of several segments with the byte counts; a byte that no segment carried has none."""
    carriers = [number for number, (offset, length) in enumerate(segments, 1) if offset <= byte < offset + length]
    assert arrival_of_byte(*stream(segments, isn), byte) == (carriers[0] if carriers else None)


def test_more_than_4_gib():
    """A stream may be longer than the range of sequence numbers."""
    chunk = 1 << 30
    segments = [(number * chunk, chunk) for number in range(6)]
    assert distinct_bytes(*stream(segments, isn=7)) == 6 * chunk
    assert arrival_of_byte(*stream(segments, isn=7), 5 * chunk) == 6


def test_no_packets():
    """Without packets there are no bytes and no flows."""
    assert distinct_bytes(*stream([])) == 0
    assert distinct_bytes(np.zeros(0, np.uint32), np.zeros(0, np.uint32)) == 0
    assert by_flow(np.zeros(0, FRAME)) == {}


def test_flows_have_their_own_packets():
    """Packets are grouped by interface, addresses and ports, in order. Packets without ports are in no group."""
    v6 = Flow("2001:db8::1", 9999, "2001:db8::2", 40000)
    rows = [packet(seq=1), packet(v6), packet(FLOW.reversed()), packet(seq=2), packet(ifindex=101), packet(problem=4)]
    rows.append(packet(protocol=17))
    flows = by_flow(np.array(rows, FRAME))
    assert {place: len(found) for place, found in flows.items()} == {
        (102, FLOW): 2,
        (102, v6): 1,
        (102, FLOW.reversed()): 1,
        (101, FLOW): 1,
    }
    assert flows[102, FLOW]["seq"].tolist() == [1, 2]


def test_a_flow_without_a_local_address():
    """A socket that did not connect has no local address: every address matches, but only its ports and its peer."""
    flows = by_flow(np.array([packet(), packet(FLOW._replace(lport=40001))], FRAME))
    unbound = Flow("0.0.0.0", 40000, "192.0.2.2", 9999)  # noqa: S104 (as an unconnected socket has it)
    assert [len(rows) for rows in packets_of(flows, 102, unbound)] == [1]
    assert len(packets_of(flows, 102, unbound._replace(lport=0))) == 2
    assert packets_of(flows, 102, FLOW._replace(lport=40002)) == []


def test_words():
    """Flags have their usual order (SYN,ACK), protocols have names, unknown protocols numbers."""
    assert [flags_text(SYN | ACK), flags_text(0), flags_text(0xFF)] == [
        "SYN,ACK",
        "",
        "SYN,FIN,RST,PSH,ACK,URG,ECE,CWR",
    ]
    assert [protocol_text(6), protocol_text(17), protocol_text(253)] == ["TCP", "UDP", "253"]


def test_the_line_of_a_packet():
    """A line has two blanks behind the addresses, and whole microseconds."""
    (row,) = text.as_dicts(np.atleast_1d(packet(time_ns=1_234_567_899)))
    assert text.line(row) == (
        "Packet Data - src_ip: 192.0.2.1,  src_port: 40000, dst_ip: 192.0.2.2,  dst_port: 9999, timestamp(us): 1234567"
    )


def test_missing_fields_are_none():
    """A later fragment has addresses and no ports, ARP has neither: the fields are unknown, not 0."""
    later, arp = text.as_dicts(
        np.array([packet(problem=4, sport=0, dport=0, fragment=1), packet(ethertype=0x0806, version=0, problem=1)])
    )
    assert [
        later[name] for name in ("source_address", "source_port", "destination_port", "seq", "flags", "problem")
    ] == (["192.0.2.1", None, None, None, None, "later fragment"])
    assert [arp[name] for name in ("source_address", "protocol", "ethertype")] == [None, None, "0x0806"]
    assert "src_ip: -,  src_port: -" in text.line(arp)
    assert text.line(arp).endswith("  (not IP)")


def test_unreadable_packets_are_counted_by_reason():
    """The text has the number of packets whose ports are unknown, by reason; it is empty if there are none."""
    totals = np.array([(7, 1), (4, 12)], [("problem", "u4"), ("frames", "u8")])
    assert "12 later fragment, 1 encrypted (--all shows them)" in text.unreadable(totals)
    assert text.unreadable(totals[:0]) == ""
