"""From segments to connections: every way that TCP ends a connection, and segments that must not end one."""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from support.made.duration import (
    FLOW,
    ONLY_CLIENT,
    ONLY_SERVER,
    OPEN_BEFORE,
    STRAYS,
    WHOLE,
    exchange,
    segment,
    segments,
    told,
    traffic,
)

from lab.arrays import UNKNOWN
from lab.probes.duration.measure import lifetimes
from lab.tcp import SYN_TIMEOUT_NS, Ended, Flow, Side
from lab.units import SECOND

NOW_NS = 1_000_000
GB = 10**9
thoroughly = settings(deadline=None, derandomize=True, max_examples=200, phases=set(Phase) - {Phase.explain})


def one(*rows, now_ns=NOW_NS):
    """Return the only row."""
    (row,) = lifetimes(segments(*rows), now_ns)
    return row


@pytest.mark.parametrize(
    "script", [*WHOLE, *STRAYS, *ONLY_CLIENT, *ONLY_SERVER, *OPEN_BEFORE], ids=lambda script: script.words
)
def test_each_script(script):
    """D1, D2, D3, D6, L4: duration, kind of end, closing side and both FINs of a single connection."""
    row = one(*exchange(script.words, start_ns=10))
    assert Ended(row["ended"]) == (Ended.OPEN if script.ended is Ended.TIMEOUT else script.ended)
    assert (Side(row["closed_first"]), Side(row["only_from"])) == (script.closed_first, script.only_from)
    start_ns = UNKNOWN if script.partial else 10
    assert row["start_ns"] == start_ns
    known = not script.partial
    assert row["duration_ns"] == (10 * script.end if known and script.end is not None else UNKNOWN)
    assert row["second_fin_ns"] == (10 * script.second_fin if known and script.second_fin is not None else UNKNOWN)
    assert row["end_ns"] == (UNKNOWN if script.end is None else 10 + 10 * script.end)
    assert (row["syn_retransmissions"], row["fin_retransmissions"]) == (script.syns_again, script.fins_again)


@thoroughly
@given(traffic())
def test_any_traffic(traffic):
    """Reused flows on several interfaces and VLANs, interleaved: each row equals the truth."""
    rows = lifetimes(segments(*traffic.events), traffic.events[-1]["time_ns"] if traffic.events else 0)
    assert told(rows) == traffic.truth


@thoroughly
@given(traffic())
def test_order_does_not_matter(traffic):
    """D4, L1: if the ring's order is not the order of time, no duration is negative or near 2^64."""
    events = segments(*traffic.events)
    backwards = lifetimes(events[::-1], NOW_NS)
    assert told(backwards) == told(lifetimes(events, NOW_NS))
    for name in ("duration_ns", "second_fin_ns", "synack_ns"):
        assert ((backwards[name] >= UNKNOWN) & (backwards[name] < NOW_NS)).all()


@pytest.mark.parametrize("words", ["cR", "cR sR", "sR cR cR"])
def test_strays_are_no_connections(words):
    """A lone RST answers a stray segment; it gives no connection."""
    assert len(lifetimes(segments(*exchange(words)), NOW_NS)) == 0


def test_no_segments():
    """Without segments there are no rows."""
    assert len(lifetimes(segments(), NOW_NS)) == 0


def test_timeout():
    """D2: an attempt is a timeout when the time since its last SYN, not its first, exceeds the limit."""
    rows = [segment(time_ns * SECOND, "S") for time_ns in (0, 1, 3, 7, 67)]
    before, after = (67 * SECOND + SYN_TIMEOUT_NS + late_ns for late_ns in (0, 1))
    assert one(*rows, now_ns=before)["ended"] == Ended.OPEN
    assert one(*rows, now_ns=after)["ended"] == Ended.TIMEOUT
    assert one(*rows, now_ns=after)["duration_ns"] == UNKNOWN


def test_the_same_sequence_number_after_the_timeout():
    """A SYN with the same sequence number is a new connection if the previous SYN is older than the timeout."""
    later_ns = SYN_TIMEOUT_NS + 100
    rows = lifetimes(segments(*exchange("cS"), *exchange("cS sSA cF sF", start_ns=later_ns)), later_ns + NOW_NS)
    assert [Ended(row["ended"]) for row in rows] == [Ended.TIMEOUT, Ended.FIN]


def test_a_syn_ack_of_each_side():
    """Without SYNs, SYN-ACKs of both sides begin two connections, also if they acknowledge the same number."""
    one_way = exchange("sSA sF", start_ns=10, isns=(0, 1000))
    other_way = exchange("sSA sF", start_ns=30, isns=(0, 1000), flow=FLOW.reversed())
    rows = lifetimes(segments(*one_way, *other_way), NOW_NS)
    assert rows["start_ns"].tolist() == [10, 30]
    assert rows["ended"].tolist() == [Ended.FIN] * 2


def test_sequence_numbers_wrap():
    """Sequence numbers are compared modulo 2^32."""
    top = (1 << 32) - 1
    for isns in ((top, top), (top - 7, 0), (0, top), (top - 3, top - 8)):
        assert one(*exchange("cS sSA cF sF", isns=isns))["ended"] == Ended.FIN


@pytest.mark.parametrize("to_client", [0, 1.5, 3, 5, 9])
@pytest.mark.parametrize("to_server", [0, 1.5, 3, 5, 9])
def test_any_size(to_server, to_client):
    """D5: a connection ends with its FINs, or its RST, whatever it has carried in each direction."""
    to_server, to_client = int(to_server * GB), int(to_client * GB)
    sent_ns = max(to_server, to_client) // 10
    c, s = 1000 + 1 + to_server, 5000 + 1 + to_client
    client_fin = segment(30 + sent_ns, "F", seq=c, ack=s)
    server_fin = segment(40 + sent_ns, "F", FLOW.reversed(), seq=s, ack=c + 1)
    client_rst = segment(30 + sent_ns, "RA", seq=c, ack=s)
    for ends, ended in (((client_fin, server_fin), Ended.FIN), ((client_rst,), Ended.RST)):
        row = one(*exchange("cS sSA"), *ends)
        assert (Ended(row["ended"]), Side(row["closed_first"])) == (ended, Side.CLIENT)
        assert row["duration_ns"] == 20 + sent_ns


@pytest.mark.parametrize("stray", ["cF-", "sF-", "cR-", "sR-"])
@pytest.mark.parametrize("before", [100, 1 << 20, 1 << 30])
def test_a_stray_of_an_earlier_connection(stray, before):
    """D5: a FIN or RST from before the SYN has no effect until its sender can have sent 4 GiB, at 400 Gbit/s."""
    reached_ns = ((1 << 32) - (1 << 16) - before) // 50
    for late_ns, counts in ((reached_ns - 1000, False), (reached_ns + 1000, True)):
        (old,) = exchange(stray, start_ns=10 + late_ns)
        old["seq"] = (int(old["seq"]) + 100 - before) % (1 << 32)
        row = one(*exchange("cS sSA"), old, *exchange("cF sF", start_ns=20 + SECOND))
        assert row["end_ns"] == (10 + late_ns if counts else 20 + SECOND)


def test_data_with_the_syn_ack():
    """With TCP Fast Open a server can send a window of data and its FIN right behind its SYN-ACK."""
    fins = [segment(21, "F", FLOW.reversed(), seq=5001 + 65_535, ack=1008), segment(31, "F", seq=1008, ack=5001)]
    row = one(*exchange("cS+ sSA+"), *fins)
    assert (Ended(row["ended"]), row["duration_ns"]) == (Ended.FIN, 11)


def test_flow_reused_at_once():
    """The same ports, nanoseconds after the last FIN: each use is a connection with its own start."""
    again = [exchange("cS sSA cF sF", start_ns=100 * n, isns=(n * 64, n * 99)) for n in range(1, 51)]
    rows = lifetimes(segments(*(row for rows in again for row in rows)), NOW_NS)
    assert [int(row["start_ns"]) for row in rows] == [100 * n for n in range(1, 51)]
    assert set(rows["ended"]) == {Ended.FIN}


def test_loopback_counts_each_packet_once():
    """On loopback each packet passes at egress and at ingress; it is counted once, at the first time."""
    out = exchange("cS cS sSA cF cF sF")
    back = [row.copy() for row in out]
    for row in back:
        row["time_ns"], row["ingress"] = row["time_ns"] + 3, 1
    row = one(*out, *back)
    assert (row["syn_retransmissions"], row["fin_retransmissions"]) == (1, 1)
    assert (row["start_ns"], row["duration_ns"], row["second_fin_ns"]) == (10, 30, 50)


@pytest.mark.parametrize(
    ("words", "ended", "fins_again"), [("cF", Ended.FIN, 0), ("cF cF", Ended.FIN, 0), ("cRA", Ended.RST, 0)]
)
@pytest.mark.parametrize("opening", ["cS cSA", "cSA", ""])
def test_connected_to_itself(opening, words, ended, fins_again):
    """D7: if a socket is connected to itself, its FIN is the FIN of both sides."""
    flow = Flow("127.0.0.1", 4000, "127.0.0.1", 4000)
    row = one(*exchange(f"{opening} {words}", isns=(1000, 1000), flow=flow))
    assert (Ended(row["ended"]), Side(row["closed_first"])) == (ended, Side.CLIENT)
    assert row["fin_retransmissions"] == fins_again
    assert row["duration_ns"] == (20 if "cS " in opening else UNKNOWN)
    assert row["over_ns"] == row["end_ns"] == 10 + 10 * len(opening.split())


def test_100_000_connections():
    """100,000 connections of 4 segments each, on 100 flows: the measure runs no Python code per event."""
    count = 100_000
    events = np.tile(segments(*exchange("cS sSA cF sF")), count)
    number = np.repeat(np.arange(count), 4)
    events["time_ns"] += number.astype(np.uint64) * 100
    events["seq"] += number.astype(np.uint32)
    events["ack"] += number.astype(np.uint32)
    events["ack"][::4] = 0
    client = events["dport"] == 80
    events["sport"][client] = 40000 + number[client] % 100
    events["dport"][~client] = 40000 + number[~client] % 100
    rows = lifetimes(events, NOW_NS)
    assert len(rows) == count
    assert set(rows["ended"]) == {Ended.FIN}
    assert set(rows["duration_ns"]) == {20}


@pytest.mark.parametrize(("late_ns", "rows"), [(0, 1), (1, 2)])
@pytest.mark.parametrize("who", ["repeats", "crosses"])
def test_how_long_a_syn_waits(late_ns, rows, who):
    """A SYN that is repeated, or that crosses the other side's, up to the timeout belongs to the same attempt, and none later."""
    other = FLOW if who == "repeats" else FLOW.reversed()
    both = [
        segment(10, "S", seq=7),
        segment(10 + SYN_TIMEOUT_NS + late_ns, "S", other, seq=7 if who == "repeats" else 9),
    ]
    found = lifetimes(segments(*both), 20 + SYN_TIMEOUT_NS + late_ns)
    assert len(found) == rows
    assert found["syn_retransmissions"].sum() == (1 if who == "repeats" and rows == 1 else 0)
