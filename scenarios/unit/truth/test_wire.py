"""The segments of each connection in a wire's log: which interface they passed, and the least time of each wait."""

import numpy as np
import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from lab.network.frame_log import FRAME, HEAD_BYTES, NEVER, Direction, Fate, Mark, WireLog
from lab.tcp import Flow
from lab.timeline import Call, Connection, Timeline
from lab.truth.wire import Counts, WireTruth, counts

both_versions = pytest.mark.parametrize("version", [4, 6])
_ETHER = Ether(src="02:00:00:00:00:c1", dst="02:00:00:00:00:5e")  # without them, scapy would send ARP requests
HOLD_NS = 5000
UNSURE_NS = 10  # uncertainty of the arrival time


def flow_of(version, port=40000):
    """Return the flow of a client."""
    client, server = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}[version]
    return Flow(client, port, server, 9999)


def record(time_ns, flow, flags, *, seq=0, ack=0, size=0, fate=Fate.FORWARDED, marks=0):
    """Return the record of a frame that came to the wire at `time_ns` and, if forwarded, left it 5 us later."""
    network = IPv6 if ":" in flow.laddr else IP
    segment = TCP(sport=flow.lport, dport=flow.rport, flags=flags, seq=seq % 2**32, ack=ack % 2**32)
    data = bytes(_ETHER / network(src=flow.laddr, dst=flow.raddr) / segment / Raw(bytes(size)))
    frame = np.zeros((), FRAME)
    frame["arrived_low_ns"], frame["arrived_high_ns"] = time_ns, time_ns + UNSURE_NS
    sent_ns = time_ns + HOLD_NS if fate == Fate.FORWARDED else NEVER
    frame["sent_low_ns"], frame["sent_high_ns"] = sent_ns, sent_ns + 20 if sent_ns != NEVER else NEVER
    frame["length"], frame["fate"], frame["marks"] = len(data), fate, marks
    frame["direction"] = Direction.TO_SERVER if flow.rport == 9999 else Direction.TO_CLIENT
    frame["head"][: min(len(data), HEAD_BYTES)] = np.frombuffer(data[:HEAD_BYTES], np.uint8)
    return frame


def connection_of(flow, enter_ns=0, exit_ns=10**9):
    """Return a connection with a connect() only."""
    return Connection(Timeline("client", flow, calls=[Call("connect", enter_ns, exit_ns)]), None)


def frames_of(flow, begin_ns=0, isn=2**32 - 1):
    """Return a lost SYN, its retransmission, the SYN-ACK, data that the wire duplicates, a FIN and its ACK."""
    back = flow.reversed()
    rows = [
        (0, flow, "S", {"seq": isn, "fate": Fate.LOST}),
        (1_000_000, flow, "S", {"seq": isn}),
        (1_010_000, back, "SA", {"seq": 77, "ack": isn + 1}),
        (1_020_000, flow, "A", {"seq": isn + 1, "ack": 78}),
        (1_030_000, flow, "PA", {"seq": isn + 1, "ack": 78, "size": 10}),
        (1_030_000, flow, "PA", {"seq": isn + 1, "ack": 78, "size": 10, "marks": Mark.COPY}),
        (1_040_000, flow, "FA", {"seq": isn + 11, "ack": 78}),
        (1_050_000, back, "A", {"seq": 78, "ack": isn + 11}),
        (1_060_000, back, "A", {"seq": 78, "ack": isn + 12}),
    ]
    return [record(begin_ns + time_ns, which, flags, **what) for time_ns, which, flags, what in rows]


@both_versions
def test_segments_at_each_interface(version):
    """A lost segment passed the sender's interface only, a copy the receiver's only."""
    flow = flow_of(version)
    stream = WireTruth(WireLog(np.array(frames_of(flow)))).stream(flow)
    headers = 54 if version == 4 else 74
    assert counts(stream.left) == Counts(5, 5 * headers + 10, 10, 2, 1)
    assert counts(stream.arrived) == Counts(5, 5 * headers + 20, 20, 1, 1)
    assert stream.again == 1
    assert stream.hold_ns() == HOLD_NS - UNSURE_NS


@both_versions
def test_least_times_of_each_wait(version):
    """A wait lasts at least from the segment's latest arrival to its answer's departure; sequence numbers wrap."""
    flow = flow_of(version)
    (carried,) = WireTruth(WireLog(np.array(frames_of(flow)))).of([connection_of(flow)])
    assert carried.syn_acks == 1
    assert carried.syn_sent_ns == 1_010_000 + HOLD_NS - UNSURE_NS
    assert carried.syn_recv_ns == 10_000 + HOLD_NS - UNSURE_NS
    # The acknowledgement of the data before the FIN does not count.
    assert carried.fin_ns(by_client=True) == 20_000 + HOLD_NS - UNSURE_NS
    assert carried.fin_ns(by_client=False) == 0
    assert WireTruth(WireLog(np.array(frames_of(flow)))).shortest_round_trip_ns(flow) == 2 * (HOLD_NS - UNSURE_NS)


def test_connections_do_not_mix():
    """Segments belong to a connection by flow and by the period in which the connection used the flow."""
    first, other = flow_of(4), flow_of(4, 40001)
    later_ns = 5_000_000_000
    log = WireLog(np.array([*frames_of(first), *frames_of(other, 300), *frames_of(first, later_ns)[1:]]))
    connections = [connection_of(first, later_ns, later_ns + 10**9), connection_of(other), connection_of(first)]
    again, its, earlier = WireTruth(log).of(connections)
    assert [len(each.to_server.left) for each in (again, its, earlier)] == [4, 5, 5]
    assert its.to_client.left["arrived_low_ns"].tolist() == [1_010_300, 1_050_300, 1_060_300]


def test_frames_before_the_recording_are_left_out():
    """Frames of an earlier use of the flow, before `since_ns`, do not count."""
    flow, later_ns = flow_of(4), 5_000_000_000
    log = WireLog(np.array([*frames_of(flow), *frames_of(flow, later_ns)]))
    assert len(WireTruth(log).stream(flow).left) == 10
    assert WireTruth(log, later_ns).stream(flow).left["arrived_low_ns"].tolist()[0] >= later_ns
    assert len(WireTruth(log, later_ns).stream(flow).left) == 5


def test_nothing_was_carried():
    """A flow that is not in the log has no segments and least times of 0; so has every flow of an empty log."""
    for log in (WireLog(np.zeros(0, FRAME)), WireLog(np.array(frames_of(flow_of(6))))):
        (carried,) = WireTruth(log).of([connection_of(flow_of(4))])
        assert [counts(stream.left) for stream in carried.streams] == [Counts(0, 0, 0, 0, 0)] * 2
        assert (carried.syn_sent_ns, carried.syn_recv_ns, carried.syn_acks, carried.fin_ns(by_client=True)) == (0,) * 4
        assert WireTruth(log).shortest_round_trip_ns(flow_of(4)) == 0


@pytest.mark.parametrize("data_first", [True, False])
def test_who_ended_the_handshake(data_first):
    """The first segment that reached the server after the SYN did: it carried data if the bare acknowledgement was lost or late."""
    flow = flow_of(4)
    acknowledges = record(1_020_000 + 99_000 * data_first, flow, "A", seq=1, ack=78)
    rows = [
        record(1_000_000, flow, "S", size=7),  # data of the SYN does not count
        record(1_005_000, flow, "A", seq=1, ack=78, size=5, fate=Fate.LOST),
        acknowledges,
        record(1_030_000, flow, "PA", seq=1, ack=78, size=10),
    ]
    (carried,) = WireTruth(WireLog(np.array(rows))).of([connection_of(flow)])
    assert carried.opened_by_data is data_first
    (alone,) = WireTruth(WireLog(np.array(rows[:1]))).of([connection_of(flow)])
    assert alone.opened_by_data is False


def test_acknowledgements_of_each_side():
    """A wait for the acknowledgement of a FIN ends with the first that reaches its end; SYN-ACKs are counted where they left."""
    flow = flow_of(4)
    back = flow.reversed()
    rows = [
        record(10_000, back, "SA", seq=77, ack=1, fate=Fate.LOST),
        record(20_000, back, "SA", seq=77, ack=1),
        record(20_000, back, "SA", seq=77, ack=1, marks=Mark.COPY),
        record(30_000, back, "FA", seq=78, ack=1),
        record(40_000, flow, "A", seq=1, ack=78),
        record(50_000, flow, "A", seq=1, ack=79),
        record(60_000, flow, "A", seq=1, ack=79),
    ]
    (carried,) = WireTruth(WireLog(np.array(rows))).of([connection_of(flow)])
    assert carried.syn_acks == 2
    assert carried.fin_ns(by_client=False) == 20_000 + HOLD_NS - UNSURE_NS
    assert carried.fin_ns(by_client=True) == 0
    assert carried.syn_recv_ns == 30_000 + HOLD_NS - UNSURE_NS
    assert carried.streams == (carried.to_server, carried.to_client)
