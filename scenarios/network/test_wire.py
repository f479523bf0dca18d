"""The relay applies its conditions exactly and logs every frame: delay, loss, order, rate, and their effects on TCP."""

import hashlib
import socket
import threading
import time

import numpy as np
import pytest
from support.datagrams import ends, log_of, numbers_of, with_fate
from support.processes import HUNG_S

from lab.linux.netns import inside
from lab.network import segment_parser
from lab.network.conditions import Conditions
from lab.network.frame_log import Direction, Fate, Mark, hold_ns
from lab.network.relay import Relay
from lab.network.topology import topology
from lab.packet import ACK, SYN
from lab.probes.states.measure import transitions
from lab.tcp import Flow, State
from lab.traffic.demo.conversation import Conversation
from lab.units import MS, SECOND
from lab.verdict import Bracket, Judge

both_versions = pytest.mark.parametrize("version", [4, 6])
PERFECT = Conditions()
MANY = 200


@pytest.fixture
def net():
    """Two hosts and a relay between them."""
    with topology(Relay()) as net:
        yield net


def judge_of(lab):
    """Return the judge of the wire."""
    return Judge(lab.scenario, "wire", lab.net.link.name)


@both_versions
@pytest.mark.parametrize("delay_ms", [0, 1, 5, 20, 100])
def test_each_frame_is_held_for_its_delay(lab, version, delay_ms):
    """No frame leaves before its delay has passed, and the log lies between the timestamps of the applications."""
    conditions = Conditions(delay_ns=delay_ms * MS)
    lab.net.conditions(conditions, conditions)
    with ends(lab.net, version) as pair:
        pings = [pair.ping() for _ in range(10)]
    log, judge, checks = log_of(lab.net, 2 * len(pings)), judge_of(lab), []
    for direction in Direction:
        frames = log.going(direction)
        for frame, shortest_ns, ping in zip(frames, hold_ns(frames)[0], pings, strict=True):
            before, after = ping[direction : direction + 2]
            subject = f"frame {frame['ordinal']} {direction.name}"
            bracket = Bracket.early(conditions.delay_ns, after - before)
            checks.append(judge.duration(subject, "time on the wire", bracket, int(shortest_ns)))
            assert before <= frame["arrived_high_ns"] <= frame["sent_low_ns"] <= after
    lab.check(checks)


def test_the_log_has_every_lost_frame(lab):
    """The server receives exactly the frames logged as forwarded. The lost fraction is about the configured one."""
    lab.net.conditions(Conditions(loss=0.3, seed=1), PERFECT)
    with ends(lab.net) as pair:
        pair.send(MANY)
        frames = log_of(lab.net, MANY).going(Direction.TO_SERVER)
        forwarded = numbers_of(with_fate(frames, Fate.FORWARDED))
        assert pair.received(len(forwarded)) == forwarded
    assert sorted(forwarded + numbers_of(with_fate(frames, Fate.LOST))) == list(range(MANY))
    # The seed determines the lost frames, so this number is the same in every run.
    lab.check([judge_of(lab).count("datagrams", "frames lost", Bracket(40, 80, 60), MANY - len(forwarded))])


def test_a_seed_repeats_a_run(net):
    """The same seed gives the same fates, another seed gives others."""
    fates = []
    with ends(net) as pair:
        for seed in (7, 7, 8):
            wild = Conditions(delay_ns=MS, loss=0.2, duplicate=0.2, reorder=0.2, corrupt=0.2, seed=seed)
            net.conditions(wild, PERFECT)
            pair.send(MANY)
            frames = log_of(net, MANY * (len(fates) + 1)).going(Direction.TO_SERVER)
            frames = frames[frames["conditions"] == len(fates) + 1]
            fates.append(np.sort(frames[["ordinal", "fate", "marks", "flipped_bit"]]))
            fates[-1]["ordinal"] -= MANY * (len(fates) - 1)
    assert np.array_equal(fates[0], fates[1])
    assert not np.array_equal(fates[0], fates[2])
    assert set(fates[0]["fate"]) == {Fate.FORWARDED, Fate.LOST}


def test_duplicates(net):
    """Each frame arrives twice, the copy right after the original."""
    net.conditions(Conditions(delay_ns=MS, duplicate=1), PERFECT)
    with ends(net) as pair:
        pair.send(20)
        frames = log_of(net, 20).frames
        assert pair.received(40) == numbers_of(frames) == [number for number in range(20) for _ in range(2)]
    assert list(frames["marks"]) == [0, Mark.COPY] * 20


def test_reordered_frames_overtake(net):
    """Reordered frames skip the delay, the others keep their order, and frames arrive in the order of the log."""
    net.conditions(Conditions(delay_ns=50 * MS, reorder=0.3), PERFECT)
    with ends(net) as pair:
        pair.send(50)
        frames = log_of(net, 50).frames
        assert pair.received(50) == numbers_of(frames)
    hurried = frames["marks"] & Mark.HURRIED > 0
    assert 5 < hurried.sum() < 30  # the same in every run
    assert np.all(np.diff(frames["ordinal"][~hurried].astype(int)) > 0)
    assert np.all(hold_ns(frames[~hurried])[0] >= 50 * MS)
    assert np.all(frames["due_ns"][hurried] == frames["arrived_high_ns"][hurried])


def test_jitter_keeps_the_order(net):
    """Each frame waits for a time within the limits, and for the frames before it."""
    net.conditions(Conditions(delay_ns=5 * MS, jitter_ns=4 * MS), PERFECT)
    with ends(net) as pair:
        pair.send(50)
        frames = log_of(net, 50).frames
        assert pair.received(50) == list(range(50))
    assert np.all(hold_ns(frames)[0] >= 1 * MS)
    assert np.all(frames["due_ns"] <= np.maximum.accumulate(frames["arrived_high_ns"] + 9 * MS))
    assert len(np.unique(frames["due_ns"] - frames["arrived_high_ns"])) > 10


def test_a_corrupt_frame_has_one_bit_flipped(net):
    """The host's device receives the frame with exactly that bit changed, and its UDP drops it."""
    listening = inside(net.server.name, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)))
    with listening, ends(net) as pair:
        listening.bind(("eth0", 0x0800))
        listening.settimeout(HUNG_S)
        net.conditions(Conditions(corrupt=1), PERFECT)
        pair.send(20)
        frames = log_of(net, 20).frames
        for frame in frames:
            differences = np.frombuffer(listening.recv(2000), np.uint8) ^ frame["head"][: frame["length"]]
            bits = np.flatnonzero(np.unpackbits(differences, bitorder="little"))
            assert list(bits) == [frame["flipped_bit"]]
        assert pair.received(0) == []
    assert np.all(frames["marks"] == Mark.CORRUPTED)


def test_rate(net):
    """Frames leave no faster than the rate, each after its transmission time."""
    slow = Conditions(delay_ns=5 * MS, rate_bps=10_000_000)
    net.conditions(slow, PERFECT)
    with ends(net) as pair:
        pair.send(20, size=1000)
        frames = log_of(net, 20).frames
        assert pair.received(20) == list(range(20))
    assert set(frames["length"]) == {1042}
    each_ns = slow.transmission_ns(1042)
    assert np.all(np.diff(frames["due_ns"]) >= each_ns)
    assert frames["sent_low_ns"][-1] - frames["arrived_high_ns"][0] >= 5 * MS + 20 * each_ns


def test_limit(net):
    """Frames that find the queue full are dropped and logged as they arrived."""
    net.conditions(Conditions(delay_ns=3600 * SECOND, corrupt=1, limit=5), PERFECT)
    with ends(net) as pair:
        pair.send(50)
        log = log_of(net, 50, waiting=5)
        assert log.waiting == 5
        assert list(log.frames["fate"]) == [Fate.OVERFLOWED] * 45
        assert numbers_of(log.frames) == list(range(5, 50))


def test_named_frames_are_dropped(net):
    """Exactly the third and the fifth frame are lost."""
    net.conditions(Conditions(drop=(3, 5)), PERFECT)
    with ends(net) as pair:
        pair.send(7)
        assert pair.received(5) == [0, 1, 3, 5, 6]


def test_a_step_of_the_delay_while_traffic_runs(net):
    """Each frame gets the conditions of its arrival, also if they change while frames wait."""
    stop = threading.Event()
    changes = []
    with ends(net) as pair:

        def keep_sending():
            while not stop.is_set():
                pair.send(5)
                time.sleep(0.0005)

        sender = threading.Thread(target=keep_sending)
        sender.start()
        try:
            for delay_ms in (5, 30, 1):
                changes.append(net.conditions(Conditions(delay_ns=delay_ms * MS), PERFECT))
                time.sleep(0.05)
        finally:
            stop.set()
            sender.join()
        frames = log_of(net, 1).going(Direction.TO_SERVER)
    begins = np.array([change.latest_ns for change in changes])
    assert np.array_equal(np.searchsorted(begins, frames["arrived_low_ns"], side="right"), frames["conditions"])
    assert np.all(hold_ns(frames)[0] >= np.array([0, 5, 30, 1])[frames["conditions"]] * MS)
    assert np.all(np.diff(frames["sent_low_ns"]) > 0)
    assert set(frames["conditions"]) >= {1, 2, 3}


def segments_of(log, flow):
    """Return the segments of one direction of a flow, and the log's records of their frames."""
    found = log.tcp()
    found = found[segment_parser.belongs(found, flow)]
    return found, log.frames[found["frame"]]


@both_versions
def test_handshake_takes_the_round_trip(lab, version):
    """S1: SYN_RECV of the passive side lasts from the SYN-ACK to the ACK, bracketed by the wire's log."""
    there, back = Conditions(delay_ns=30 * MS), Conditions(delay_ns=20 * MS)
    lab.net.conditions(there, back)
    observed = lab.converse(Conversation(), version=version)
    lab.states(observed)
    (connection,) = observed.connections
    connect, accept = connection.client.find("connect"), connection.server.find("accept")
    round_trip_ns = there.delay_ns + back.delay_ns
    assert connect.exit_ns - connect.enter_ns >= round_trip_ns

    log = lab.net.link.log()
    sent, sent_frames = segments_of(log, connection.client.flow)
    answered, answer_frames = segments_of(log, connection.client.flow.reversed())
    syn_ack = answer_frames[segment_parser.has(answered, SYN | ACK)][0]
    ack = sent_frames[~segment_parser.has(sent, SYN)][0]
    # The server sends the SYN-ACK before it arrives on the wire, and receives the ACK after it has left the wire.
    low_ns = int(ack["sent_low_ns"] - syn_ack["arrived_high_ns"])
    assert low_ns >= round_trip_ns
    bracket = Bracket.early(low_ns, accept.exit_ns - connect.enter_ns - there.delay_ns)
    rows = transitions(observed.recording.events["states"])
    (row,) = rows[(rows["netns"] == lab.net.server.inode) & (rows["oldstate"] == State.SYN_RECV)]
    subject, measured_ns = str(connection.server.flow), int(row["duration_ns"])
    lab.check([judge_of(lab).duration(subject, "SYN_RECV", bracket, measured_ns, resolution_ns=1000)])


@both_versions
def test_a_lost_syn_is_sent_again(lab, version):
    """The first SYN is dropped: connect() lasts longer than the retransmission timeout, and the log has both SYNs."""
    lab.net.conditions(Conditions(drop=(1,)), PERFECT)
    observed = lab.converse(Conversation(), version=version)
    lab.states(observed)
    (connection,) = observed.connections
    sent, frames = segments_of(lab.net.link.log(), connection.client.flow)
    syns = frames[segment_parser.opens(sent)]
    assert list(syns["fate"]) == [Fate.LOST, Fate.FORWARDED]
    assert list(segment_parser.retransmitted(sent)[segment_parser.opens(sent)]) == [False, True]
    connect = connection.client.find("connect")
    between_ns = int(syns["arrived_low_ns"][1] - syns["arrived_high_ns"][0])
    assert connect.exit_ns - connect.enter_ns > between_ns


@both_versions
def test_a_large_transfer_arrives_intact(net, version):
    """10 MB arrive intact despite delay and loss in both directions; the log has losses and retransmissions."""
    net.conditions(Conditions(delay_ns=MS, loss=0.01), Conditions(delay_ns=MS, loss=0.01))
    data = np.random.default_rng(0).bytes(10_000_000)
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    listener = inside(net.server.name, lambda: socket.create_server((net.server.address(version), 9999), family=family))
    client = inside(net.client.name, lambda: socket.socket(family))
    digest = hashlib.sha256()

    def receive():
        connection, _ = listener.accept()
        with connection:
            while part := connection.recv(1 << 16):
                digest.update(part)

    with listener, client:
        receiver = threading.Thread(target=receive)
        receiver.start()
        client.connect(listener.getsockname())
        here, there = client.getsockname()[:2], client.getpeername()[:2]
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        receiver.join()
    assert digest.digest() == hashlib.sha256(data).digest()
    sent, frames = segments_of(net.link.log(), Flow(*here, *there))
    lost = frames["fate"] == Fate.LOST
    again = segment_parser.retransmitted(sent)
    assert lost.sum() > 0
    assert again.sum() > 0
    assert sent["payload"][~again].sum() == len(data)
    assert sent["payload"][~lost].sum() >= len(data)
