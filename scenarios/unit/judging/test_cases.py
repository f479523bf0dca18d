"""Comparisons that a case has of its own: each names what is wrong with rows, and how many are missing."""

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from support.made.observed import PACKETS, observed

from lab.judging.cases import round_trips, traffic
from lab.judging.cases.connections import each_or_lost, no_longer_than
from lab.judging.cases.traffic import as_many_as_sent, each_connection
from lab.judging.finding import Verdict
from lab.judging.happened import Happened, Sent
from lab.judging.quantity import Quantity, Row, Told
from lab.network.topology import CLIENT_MAC
from lab.timeline import Call, Connection, Timeline

PEERS = Happened("many", 80, ["127.0.0.1"], ["127.0.0.1"], facts={"peers": 4})


def peers(*addresses, lost=0, **fields):
    """Return the finding of rows with these peers."""
    rows = [Row({"raddr": address, "rport": 80} | fields, "") for address in addresses]
    (found,) = each_or_lost(Quantity("flows"), Told(rows, lost), PEERS)
    return found.verdict, found.told, found.distance


EACH = [f"127.0.0.{number}" for number in (2, 3, 4)]


def test_each_peer_or_what_was_lost():
    """Each address counts once, and that of the load itself is one of them."""
    assert peers(*EACH) == peers(*EACH, *EACH, "127.0.0.1") == (Verdict.RIGHT, 4, 0)
    assert peers(*EACH, "127.0.0.5")[:1] == (Verdict.RIGHT,)
    assert peers(*EACH[:2]) == (Verdict.MISSING, 3, 1)
    assert peers(EACH[0], lost=1) == (Verdict.MISSING, 2, 2)
    assert peers(EACH[0], lost=2) == (Verdict.LOST, 2, 2)
    assert peers() == (Verdict.MISSING, 1, 3)


@pytest.mark.parametrize("fields", [{"rport": 81}, {"count": 0}, {"number": 0}])
def test_rows_that_are_no_peer(fields):
    """Rows of other ports, and empty ones, do not count."""
    assert peers(*EACH, **fields) == (Verdict.MISSING, 1, 3)


def test_other_ways_to_name_a_peer():
    """A flow names its destination, and need not name a port; other addresses are not the load's."""
    rows = [Row({"destination": address}, "") for address in EACH]
    (found,) = each_or_lost(Quantity("flows"), Told(rows, 0), PEERS)
    assert found.verdict == Verdict.RIGHT
    assert peers(*EACH, rport=None) == (Verdict.RIGHT, 4, 0)
    assert peers("192.0.2.1", "10.0.0.1", "127.0.0.9") == (Verdict.MISSING, 2, 2)


CHURN = Happened("churn", 80, facts={"longest_ns": 500})


def longest(*rows, lost=0):
    told = Told([Row({"lport": 80, "oldstate": "ESTABLISHED"} | fields, "") for fields in rows], lost)
    (found,) = no_longer_than(Quantity("states", unit="ns"), told, CHURN)
    return found.verdict, found.told


def test_no_socket_was_in_a_state_longer_than_any_connection_lasted():
    """The longest time counts, of rows of the port only."""
    assert longest({"value": 7}, {"value": 501}, {"value": None}) == (
        Verdict.RIGHT,
        501,
    )  # the tool's resolution is 1 ns
    assert longest({"value": 7}, {"value": 502}) == (Verdict.WRONG, 502)
    assert longest({"value": 502, "lport": 9, "rport": 80}) == (Verdict.WRONG, 502)
    assert longest({"value": 502, "lport": 9}, {"value": 3}) == (Verdict.RIGHT, 3)
    assert longest({"value": None}) == (Verdict.RIGHT, 0)
    told = Told([Row({"lport": 80, "value": value}, f"row {value}") for value in (None, 1, 0)], 0)
    (found,) = no_longer_than(Quantity("states", unit="ns"), told, CHURN)
    assert (found.told, found.rows) == (1, ["row 1"])


def test_the_listener_is_not_a_connection():
    """Its own changes do not count. Those of its children do."""
    assert longest({"value": 900, "newstate": "LISTEN"}, {"value": 1}) == (Verdict.RIGHT, 1)
    assert longest({"value": 900, "oldstate": "LISTEN", "newstate": "CLOSE"}, {"value": 1}) == (Verdict.RIGHT, 1)
    assert longest({"value": 900, "oldstate": "LISTEN", "newstate": "SYN_RECV"}) == (Verdict.WRONG, 900)


@pytest.mark.parametrize(("lost", "verdict"), [(0, Verdict.MISSING), (1, Verdict.LOST)])
def test_no_rows(lost, verdict):
    """The truth is known, and the tool told nothing."""
    assert longest(lost=lost) == (verdict, None)
    assert longest({"lport": 9, "value": 3}, lost=lost) == (verdict, None)
    bulk = Happened("bulk", 80, ["192.0.2.1"], ["192.0.2.2"], facts={"least": 5, "most": 6})
    for rows in ([], [Row({"source": "192.0.2.2", "destination": "192.0.2.1", "packets": 5}, "")]):
        (found,) = as_many_as_sent(Quantity("flows"), Told(rows, lost), bulk)
        assert (found.verdict, found.low, found.high, found.best) == (verdict, 5, 6, 5)
    assert not list(as_many_as_sent(Quantity("flows", direction="ingress"), Told([], lost), bulk))


FRAMES = [Sent("VLAN", "TCP", "198.51.100.1", "192.0.2.1", (20480, 80), 60), Sent("ARP", "ARP", "", "", None, 60)]
ENDS = {"laddr": "198.51.100.1", "lport": 20480, "raddr": "192.0.2.1", "rport": 80}
SWAPPED = {"laddr": "192.0.2.1", "lport": 80, "raddr": "198.51.100.1", "rport": 20480}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([ENDS], {"connection behind VLAN": "right"}),
        ([SWAPPED], {"connection behind VLAN": "right"}),
        ([], {"connection behind VLAN": "missing"}),
        ([ENDS, ENDS | {"lport": 80}], {"connection behind VLAN": "right", "rows of no connection": "wrong"}),
        ([ENDS | {"lport": 80}], {"connection behind VLAN": "missing", "rows of no connection": "wrong"}),
        ([ENDS, ENDS | {"laddr": "203.0.113.1"}], {"connection behind VLAN": "right"}),
    ],
)
def test_crafted_connections(rows, expected):
    """Each has a row, from either end, and no row of their hosts has other ends."""
    happened = Happened("unusual-connections", 80, frames=FRAMES)
    told = Told([Row(row, "") for row in rows], 0)
    found = {it.quantity: str(it.verdict) for it in each_connection(Quantity("duration"), told, happened)}
    assert found == expected


SPANS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6)), min_size=2, max_size=6)


@given(SPANS)
def test_every_rtt_that_the_kernel_can_take_is_possible(spans):
    """Whatever the samples are, within what the applications waited: each and their smoothed values are in their intervals."""
    now_ns, calls, truth = 0, [], []
    for number, (least_ns, more_ns, late_ns) in enumerate(spans):
        back_ns = now_ns + least_ns + more_ns + late_ns
        names = ("send", "recv") if number else ("connect",)
        calls += [Call(name, now_ns if name != "recv" else now_ns + 1, back_ns, 1) for name in names]
        truth.append((now_ns, least_ns, least_ns + more_ns))
        now_ns = back_ns + 1
    ((made, on_wire),) = observed(wire=True).with_wire()
    both = Connection(Timeline("client", made.client.flow, calls=calls), made.server)
    least = {enter_ns: least_ns for enter_ns, least_ns, _ in truth}.__getitem__

    def held(*, smoothed):
        return list(round_trips._held(both, on_wire, least, now_ns, smoothed=smoothed))  # noqa: SLF001 (needs no network)

    *single, fin = held(smoothed=False)
    assert len(single) == len(truth)
    assert all(
        it.low_ns <= ns <= it.high_ns and it.least == it.most == 1 for it, (*_, ns) in zip(single, truth, strict=True)
    )
    assert (fin.low_ns, fin.high_ns, fin.least, fin.most) == (truth[0][1], now_ns, 0, 1)
    us = [ns // 1000 for *_, ns in truth]
    values = list(accumulate(us, lambda so_far, sample: so_far + (sample - so_far) / 8))
    *each, further = held(smoothed=True)
    assert len(each) == len(truth) - 1
    for it, before, after in zip(each, values, values[1:], strict=False):
        assert (it.least, it.most) == (1, 1)
        assert all(it.low_ns <= 1000 * value <= it.high_ns + 1000 for value in (before, after))
    assert all(further.low_ns <= 1000 * value <= further.high_ns + 1000 for value in values)
    arrived = sum(not packet.by_client for packet in PACKETS) - 1  # without the SYN-ACK
    assert (further.least, further.most) == (0, arrived - (len(truth) - 1))


def test_unusual_datagrams():
    """Each has addresses of its own. All but later fragments have ports, behind their headers; options fill the IP header."""
    frames = list(traffic._unusual_datagrams())  # noqa: SLF001 (needs no network)
    parsed = {frame.name: Ether(frame.data) for frame in frames}
    assert len(parsed) == len(frames) == len({frame.source for frame in frames})
    for frame in frames:
        packet = parsed[frame.name]
        if frame.problem:
            assert packet.haslayer(UDP) is False or frame.name.startswith("later")
        else:
            assert (packet[UDP].sport, packet[UDP].dport) == (frame.sport, frame.dport)
            assert frame.dport == 80
        network = packet[IP] if packet.haslayer(IP) else packet[IPv6]
        assert (network.src, network.dst) == (str(frame.source), str(frame.destination))
    assert [
        tag.vlan for tag in (parsed["VLAN, IPv4"][Dot1Q], parsed["QinQ, IPv6"][Dot1AD], parsed["QinQ, IPv6"][Dot1Q])
    ] == [
        7,
        10,
        20,
    ]
    assert parsed["IP options"][IP].ihl == 15
    assert [parsed[f"{which} fragment, IPv4"][IP].frag for which in ("first", "later")] == [0, 3]


def test_unusual_connections():
    """Each has its SYN, SYN-ACK and both FINs, there and back, with numbers that follow each other."""
    connections = list(traffic._unusual_connections())  # noqa: SLF001 (as above)
    ends = set()
    for frames in connections:
        packets = [Ether(frame.data)[TCP] for frame in frames]
        assert [str(packet.flags) for packet in packets] == ["S", "SA", "FA", "FA"]
        syn, answer, fin, last = packets
        assert (answer.ack, fin.seq, fin.ack, last.seq, last.ack) == (
            syn.seq + 1,
            syn.seq + 1,
            answer.seq + 1,
            answer.seq + 1,
            fin.seq + 1,
        )
        there = {(frame.source, frame.sport, frame.destination, frame.dport) for frame in (frames[0], frames[2])}
        back = {(frame.destination, frame.dport, frame.source, frame.sport) for frame in (frames[1], frames[3])}
        assert len(there) == 1
        assert there == back
        ends |= there
    assert len(ends) == len(connections) == 7


def test_an_arp_request():
    """It asks for an address that nobody has, and is as long as the shortest frame."""
    request = traffic._arp_request()  # noqa: SLF001 (as above)
    asked = Ether(request)[ARP]
    assert (asked.op, asked.psrc, asked.pdst, len(request)) == (1, "192.0.2.1", "192.0.2.77", 60)
    assert asked.hwsrc == Ether(request).src == CLIENT_MAC
    assert Ether(request).dst == "ff:ff:ff:ff:ff:ff"
