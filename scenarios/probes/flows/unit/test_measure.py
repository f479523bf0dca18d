"""Reports from sums by flow: exact sums by pair and by connection, with both directions of a connection in one row."""

import ipaddress
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.packet import Problem
from lab.probes.flows import measure, text
from lab.probes.flows.measure import CONNECTION, LOOPBACK, PAIR, Accumulated, Direction, protocol_name
from lab.probes.flows.text import as_dict
from lab.tcp import address_text

thoroughly = settings(deadline=None, derandomize=True, max_examples=200)
TOTALS = np.dtype(
    [
        ("ifindex", "u4"),
        ("saddr", "u1", 16),
        ("daddr", "u1", 16),
        ("smac", "u1", 6),
        ("dmac", "u1", 6),
        *((name, "u2") for name in ("sport", "dport", "ethertype", "vlan", "inner_vlan", "problem", "direction")),
        ("version", "u1"),
        ("protocol", "u1"),
        *(
            (name, "u8")
            for name in ("packets", "bytes", "payload_bytes", "syns", "fins", "rsts", "first_ns", "last_ns")
        ),
    ]
)
A, B, V6 = "192.0.2.1", "192.0.2.2", "2001:db8::1"
MAC_A, MAC_B = bytes.fromhex("0200000000c1"), bytes.fromhex("02000000005e")


def packed(address):
    """Return an address as 16 bytes in network order, IPv4 as ::ffff:a.b.c.d."""
    return list(ipaddress.IPv6Address(address if ":" in address else f"::ffff:{address}").packed)


def flow(source=A, destination=B, sport=0, dport=0, **fields):
    """Return a row of the kernel's sums: by default TCP at the egress of interface 2; `fields` override columns."""
    row = np.zeros((), TOTALS)
    known = {"ifindex": 2, "ethertype": 0x0800, "version": 4, "protocol": 6, "direction": Direction.EGRESS}
    known |= {"saddr": packed(source), "daddr": packed(destination), "sport": sport, "dport": dport}
    known |= {"smac": list(MAC_A), "dmac": list(MAC_B), "packets": 1, "bytes": 60, "first_ns": 10, "last_ns": 10}
    for name, value in (known | fields).items():
        row[name] = value
    return row


def totals(*rows):
    return np.stack(rows) if rows else np.zeros(0, TOTALS)


def seen(rows):
    """Return the ends and counts of each row."""
    named = [as_dict(row, {}) for row in rows]
    return [(row["source_address"], row["destination_address"], row["packets"], row["bytes"]) for row in named]


def test_nothing_gives_no_rows():
    """An interval without traffic has the usual columns and no rows."""
    for rows in (measure.pairs(totals()), measure.connections(totals())):
        assert len(rows) == 0
        assert {"packets", "bytes", "saddr"} <= set(rows.dtype.names)
        assert len(measure.from_first_sender(measure.connections(totals()))) == 0


def test_a_pair_is_addresses_and_direction():
    """Two connections of a pair are one row; the replies are another."""
    rows = measure.pairs(
        totals(
            flow(sport=1, dport=80, packets=2, bytes=100),
            flow(sport=2, dport=80, packets=3, bytes=200),
            flow(B, A, sport=80, dport=1, direction=Direction.INGRESS, packets=9, bytes=900),
        )
    )
    assert seen(measure.largest_first(rows)) == [(B, A, 9, 900), (A, B, 5, 300)]


def test_protocol_interface_vlan_and_direction_separate_pairs():
    """Rows that differ in one of these columns are not added up."""
    others = ({}, {"protocol": 17}, {"ifindex": 3}, {"vlan": 5}, {"inner_vlan": 5}, {"direction": Direction.INGRESS})
    assert len(measure.pairs(totals(*(flow(**fields) for fields in others)))) == len(others)


def test_fragments_belong_to_their_pair():
    """F3: later fragments, which have no ports, are in the row of their pair but in a separate connection."""
    rows = totals(
        flow(sport=7, dport=53, protocol=17), flow(protocol=17, problem=Problem.LATER_FRAGMENT, packets=2, bytes=2000)
    )
    assert seen(measure.pairs(rows)) == [(A, B, 3, 2060)]
    connections = [as_dict(row, {}) for row in measure.connections(rows)]
    assert {(row["source_port"], row["problem"]) for row in connections} == {(7, None), (None, "later_fragment")}


def test_endpoints_that_are_not_ip_are_mac_addresses():
    """F5: the endpoints of ARP are the MAC addresses of its frame, not all-zero IP addresses."""
    arp = flow("::", "::", ethertype=0x0806, version=0, protocol=0, problem=Problem.NOT_IP)
    (row,) = measure.pairs(totals(arp))
    named = as_dict(row, {})
    assert (named["protocol"], named["source_address"], named["destination_address"]) == (
        "ARP",
        "02:00:00:00:00:c1",
        "02:00:00:00:00:5e",
    )
    assert named["ip_protocol"] is None


def test_macs_separate_rows():
    """A pair with two source MAC addresses is one row, or two with `macs`."""
    rows = totals(flow(), flow(smac=list(MAC_B)))
    assert len(measure.pairs(rows)) == len(measure.connections(rows)) == 1
    assert len(measure.pairs(rows, macs=True)) == len(measure.connections(rows, macs=True)) == 2


@pytest.mark.parametrize("first", [True, False])
def test_a_connection_begins_at_the_end_that_sent_first(first):
    """The sender of the first packet is the source, whether its address is the higher one or not."""
    rows = measure.connections(
        totals(
            flow(sport=5, dport=80, packets=4, bytes=400, first_ns=10 if first else 30, last_ns=90),
            flow(B, A, sport=80, dport=5, direction=Direction.INGRESS, packets=7, bytes=700, first_ns=20, last_ns=80),
        )
    )
    (row,) = measure.from_first_sender(rows)
    named = as_dict(row, {2: "eth0"})
    ends = (A, 5, B, 80) if first else (B, 80, A, 5)
    assert (
        tuple(named[name] for name in ("source_address", "source_port", "destination_address", "destination_port"))
        == ends
    )
    assert (named["packets"], named["reply_packets"]) == ((4, 7) if first else (7, 4))
    assert named["direction"] == ("egress" if first else "ingress")
    assert (named["first_ns"], named["last_ns"]) == (10 if first else 20, 90)
    assert named["interface"] == "eth0"


def test_a_connection_of_one_direction():
    """A connection without replies has no time of a reply."""
    (row,) = measure.from_first_sender(measure.connections(totals(flow(B, A, sport=80, dport=5))))
    named = as_dict(row, {})
    assert (named["source_address"], named["reply_packets"], named["reply_first_ns"]) == (B, 0, None)
    assert (named["first_ns"], named["last_ns"]) == (10, 10)


def test_loopback_counts_both_directions_at_egress():
    """On the loopback both directions have the direction egress, and are one connection."""
    there = flow(sport=5, dport=80, ifindex=LOOPBACK)
    back = flow(B, A, sport=80, dport=5, ifindex=LOOPBACK)
    assert len(measure.connections(totals(there, back))) == 1


ENDS = st.sampled_from([(A, 1), (A, 2), (B, 1), (B, 80), (V6, 80)])
FLOWS = st.builds(
    lambda ends, protocol, outward, packets, first_ns: flow(
        ends[0][0],
        ends[1][0],
        ends[0][1],
        ends[1][1],
        protocol=protocol,
        direction=Direction.EGRESS if (ends[0] < ends[1]) == outward else Direction.INGRESS,
        packets=packets,
        bytes=60 * packets,
        first_ns=first_ns,
        last_ns=first_ns + packets,
    ),
    st.tuples(ENDS, ENDS),
    st.sampled_from([6, 17]),
    st.booleans(),
    st.integers(1, 2**40),
    st.integers(0, 2**62),
)


@thoroughly
@given(st.lists(st.lists(FLOWS, max_size=20), min_size=1, max_size=5))
def test_intervals_add_up(intervals):
    """The report is the sum over all packets, by pair and by connection, for any division into intervals."""
    pairs, connections = Accumulated(PAIR, 1000), Accumulated(CONNECTION, 1000)
    by_pair, by_connection = defaultdict(lambda: [0, 0]), defaultdict(int)
    first = {}
    for interval in intervals:
        pairs.add(measure.pairs(totals(*interval)))
        connections.add(measure.connections(totals(*interval)))
        for row in interval:
            ends = [(address_text(row[a].tobytes()), int(row[p])) for a, p in (("saddr", "sport"), ("daddr", "dport"))]
            by_pair[ends[0][0], ends[1][0], int(row["protocol"]), int(row["direction"])][0] += int(row["packets"])
            by_pair[ends[0][0], ends[1][0], int(row["protocol"]), int(row["direction"])][1] += int(row["bytes"])
            by_connection[*ends, int(row["protocol"])] += int(row["packets"])
            key = (frozenset(ends), int(row["protocol"]))
            first[key] = min(first.get(key, 2**63), int(row["first_ns"]))
    assert {
        (
            address_text(row["saddr"].tobytes()),
            address_text(row["daddr"].tobytes()),
            row["protocol"],
            row["direction"],
        ): [
            row["packets"],
            row["bytes"],
        ]
        for row in pairs.rows
    } == by_pair
    there_and_back = defaultdict(int)
    for row in measure.from_first_sender(connections.rows):
        named = as_dict(row, {})
        ends = (
            (named["source_address"], named["source_port"]),
            (named["destination_address"], named["destination_port"]),
        )
        there_and_back[*ends, named["ip_protocol"]] += named["packets"]
        if named["reply_packets"]:
            there_and_back[*ends[::-1], named["ip_protocol"]] += named["reply_packets"]
        assert named["first_ns"] >= first[frozenset(ends), named["ip_protocol"]]
        assert named["reply_first_ns"] is None or named["first_ns"] <= named["reply_first_ns"]
    assert there_and_back == by_connection


@thoroughly
@given(st.lists(st.lists(FLOWS, max_size=20), min_size=1, max_size=5), st.integers(1, 4))
def test_a_full_table_sums_up_the_longest_idle(intervals, most):
    """F4: a full table keeps at most `most` rows, and these and `older` add up to all packets."""
    bounded, everything = Accumulated(CONNECTION, most), Accumulated(CONNECTION, 1000)
    for interval in intervals:
        rows = measure.connections(totals(*interval))
        kept, every = bounded.add(rows), everything.add(rows)
        assert len(kept) <= most
        assert int(measure.packets(kept).sum()) + bounded.older["packets"] == int(measure.packets(every).sum())
        if bounded.older["rows"] == 0:
            assert len(kept) == len(every)


def test_the_longest_idle_row_goes_first():
    """Of three rows with room for two, the one with the oldest last packet is summed up."""
    table = Accumulated(PAIR, 2)
    table.add(measure.pairs(totals(flow(A, B, last_ns=50), flow(B, A, last_ns=20, packets=4, bytes=500))))
    rows = table.add(measure.pairs(totals(flow(V6, B, last_ns=60))))
    assert {row[0] for row in seen(rows)} == {A, V6}
    assert table.older == {"rows": 1, "packets": 4, "bytes": 500}


def test_largest_first():
    """Rows are sorted by packets, then by bytes."""
    rows = measure.pairs(totals(flow(A, B, packets=2), flow(B, A, packets=3), flow(A, V6, packets=2, bytes=61)))
    assert seen(measure.largest_first(rows)) == [(B, A, 3, 60), (A, V6, 2, 61), (A, B, 2, 60)]


@pytest.mark.parametrize(
    ("numbers", "name"),
    [
        ((0x0800, 6, 0), "TCP"),
        ((0x0800, 17, Problem.LATER_FRAGMENT), "UDP"),
        ((0x0800, 1, Problem.NO_PORTS), "ICMP"),
        ((0x86DD, 58, Problem.NO_PORTS), "ICMPv6"),
        ((0x86DD, 50, Problem.ENCRYPTED), "ESP"),
        ((0x0800, 253, Problem.NO_PORTS), "IP-253"),
        ((0x0806, 0, Problem.NOT_IP), "ARP"),
        ((0, 0, Problem.NOT_IP), "LLC"),
        ((0x88B5, 0, Problem.NOT_IP), "0x88b5"),
        ((0x0800, 6, Problem.TRUNCATED), "other (truncated)"),
        ((0x86DD, 60, Problem.TOO_MANY_HEADERS), "other (too many headers)"),
    ],
)
def test_names(numbers, name):
    """F5: each kind of traffic has its own name."""
    assert protocol_name(*numbers) == name


def test_table():
    """A column is as wide as its widest cell, and a missing value is `-`."""
    rows = [as_dict(row, {2: "eth0"}) for row in measure.pairs(totals(flow(packets=1234567, bytes=1234567, vlan=7)))]
    lines = list(text.lines([*rows, text.older({"packets": 5, "bytes": 300})]))
    assert [line.split() for line in lines] == [
        ["PROTOCOL", "SOURCE", "DESTINATION", "PACKETS", "BYTES", "INTERFACE", "DIRECTION"],
        ["TCP", A, B, "1234567", "1.2", "MB", "eth0.7", "egress"],
        ["older", "-", "-", "5", "300", "B", "-", "-"],
    ]


def test_table_of_connections():
    """A line has ports, duration and both directions. IPv6 addresses are in brackets, and an unknown port is `-`."""
    rows = measure.from_first_sender(
        measure.connections(
            totals(
                flow(sport=5, dport=80, packets=9, first_ns=0, last_ns=1_500_000_000),
                flow(V6, V6, problem=Problem.LATER_FRAGMENT),
                flow(version=0, ethertype=0x0806, problem=Problem.NOT_IP),
            ),
            macs=True,
        )
    )
    named = [as_dict(row, {2: "eth0"}) for row in measure.largest_first(rows)]
    head, first, *rest = text.lines(named, connections=True, macs=True)
    assert head.split()[:6] == ["PROTOCOL", "SOURCE", "DESTINATION", "START", "DURATION", "PACKETS"]
    words = first.split()
    assert (words[1], words[2], words[4], words[5]) == (f"{A}:5", f"{B}:80", "1.500", "9")
    assert words[-2:] == [MAC_A.hex(":"), MAC_B.hex(":")]
    assert any(f"[{V6}]:-" in line for line in rest)
    assert any(f"ARP      {MAC_A.hex(':')}" in line for line in rest)
