"""Stages, requests and replies from points of networks that cut, lose, repeat and reorder segments."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.made.layers import CLIENT_NETNS, FLOW, MSS, PORT, SERVER_NETNS, Network, point, points, talk

from lab.arrays import UNKNOWN
from lab.packet import ACK, FIN, SYN
from lab.paths import SOURCES
from lab.probes.layers.requests import GAP_NS, Kind, requests
from lab.probes.layers.stages import FATES, LAYERS, NEW_DATA, OLD_DATA, At, Stages, Stop, elsewhere_ns, layers_ns

HOSTS = (CLIENT_NETNS, SERVER_NETNS)
NUMBERS = st.one_of(st.integers(0, (1 << 32) - 1), st.integers((1 << 32) - 9 * MSS, (1 << 32) - 1))


def test_points_are_numbered_as_in_the_program():
    """`At` has the names of the C header, in the same order."""
    text = (SOURCES / "layers/event.h").read_text()
    names = [line.split("_", 1)[1].split(",")[0] for line in text.splitlines() if line.startswith("    POINT_")]
    assert names == [at.name for at in At]


@settings(deadline=None, max_examples=60)  # the time depends on the machine
@given(
    seed=st.integers(0, 1 << 32),
    numbers=st.tuples(NUMBERS, NUMBERS),
    loss=st.sampled_from([0.0, 0.0, 0.3]),
    spurious=st.sampled_from([0.0, 0.3]),
    turns=st.integers(1, 4),
)
def test_every_stage_of_every_request(seed, numbers, loss, spurious, turns):
    """On any network, each stage of request and reply has its true time, and the layers add up to the total."""
    network = Network(seed, loss, spurious)
    network.open(FLOW, *numbers)
    truth = talk(network, FLOW, numbers, turns)
    found = requests(Stages(points(*network.rows), HOSTS), PORT)
    assert len(found.rows) == len(found.turns.call) == turns
    assert len(found.every) == turns
    for row, legs in zip(found.rows, truth, strict=True):
        request, reply = (leg.stops for leg in legs)
        reply[Stop.BEGUN] = request[Stop.READ]
        assert row["stops"].tolist() == [request, reply]
        assert row["sent"].tolist() == [leg.sent for leg in legs]
        assert row["layers_ns"].sum() == row["total_ns"] == reply[Stop.READ] - request[Stop.BEGUN]
        assert row["elsewhere_ns"] == 0
        assert (row["layers_ns"] >= 0).all()


@settings(deadline=None, max_examples=30)  # the time depends on the machine
@given(seed=st.integers(0, 1 << 32), loss=st.sampled_from([0.0, 0.4]), spurious=st.sampled_from([0.0, 0.4]))
def test_every_segment(seed, loss, spurious):
    """Each byte is delivered by one segment, despite losses and repetitions, and each segment is one row."""
    network = Network(seed, loss, spurious)
    network.open(FLOW, 5, 6)
    sizes = [network.random.randint(1, 9 * MSS) for _ in range(3)]
    network.send(FLOW, 6, sizes)
    rows = Stages(points(*network.rows), HOSTS).packets()
    assert len(rows) == sum(row["at"] == At.DEVICE_OUT and row["length"] > 0 for row in network.rows)
    assert {FATES[fate] for fate in rows["fate"]} <= {"delivered", "duplicate", "lost"}
    arrivals = sum(row["at"] == At.DEVICE_IN and row["length"] > 0 for row in network.rows)
    assert (rows["fate"] != FATES.index("lost")).sum() == arrivals
    delivered = rows[rows["fate"] == FATES.index("delivered")]
    came = np.unique(np.concatenate([np.arange(row["seq"], row["seq"] + row["length"]) for row in delivered]))
    assert len(came) == sum(sizes)
    layers = layers_ns(delivered["stops"])
    assert (layers >= 0).all()
    assert (layers.sum(axis=1) == delivered["stops"][:, Stop.READ] - delivered["stops"][:, Stop.BEGUN]).all()


@settings(deadline=None, max_examples=20)  # the time depends on the machine
@given(seed=st.integers(0, 1 << 32), numbers=st.lists(NUMBERS, min_size=6, max_size=6, unique=True))
def test_reused_flows(seed, numbers):
    """Successive connections of one flow, and a simultaneous one of another flow, are separate."""
    network = Network(seed)
    expected = []
    for opened in (numbers[:2], numbers[2:4]):
        network.open(FLOW, *opened)
        expected += talk(network, FLOW, opened, 2)
    parallel = Network(seed + 1)
    other = FLOW._replace(lport=40001)
    parallel.open(other, *numbers[4:])
    talk(parallel, other, numbers[4:], 3)
    found = requests(Stages(points(*network.rows, *parallel.rows), HOSTS), PORT).rows
    mine = found[found["cport"] == FLOW.lport]
    assert mine["number"].tolist() == [0, 1, 0, 1]
    assert len(set(mine["connection"])) == 2
    assert mine["stops"][:, 1, Stop.READ].tolist() == [reply.stops[Stop.READ] for _, reply in expected]
    assert found[found["cport"] == other.lport]["number"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("host", HOSTS)
def test_one_host(host):
    """With one observed host, its layers are correct, and the other time is one sum."""
    network = Network(7)
    network.open(FLOW, 8, 9)
    talk(network, FLOW, (8, 9), 3)
    everything = points(*network.rows)
    whole, part = (requests(Stages(everything, hosts), PORT).rows for hosts in (HOSTS, (host,)))
    assert len(part) == len(whole) == 3
    assert set(part.dtype.names) == set(whole.dtype.names)
    for row, true in zip(part, whole, strict=True):
        known = row["layers_ns"] != UNKNOWN
        known[:, 0] = False
        assert known.sum() >= 8
        assert row["layers_ns"][known].tolist() == true["layers_ns"][known].tolist()
        known_ns = row["layers_ns"][row["layers_ns"] != UNKNOWN].sum()
        assert known_ns + row["elsewhere_ns"] == row["total_ns"] <= true["total_ns"]
        assert (row["elsewhere_ns"] > 0) == (host == CLIENT_NETNS)


def moved(flow, seq, written_ns, read_ns):
    """Return the points of ten bytes: a write() and a read()."""
    return [
        point(written_ns + 9, At.WRITE, seq, 10, flow, enter_ns=written_ns),
        point(read_ns, At.READ, seq, 10, flow, enter_ns=read_ns - 1),
    ]


def kinds(*rows, gap_ns=GAP_NS):
    """Return the kind, the bytes and the times of the first and the last byte of each row."""
    every = requests(Stages(points(*rows), HOSTS), PORT, gap_ns).every
    return [(Kind(row["kind"]).name, row["bytes"].tolist(), row["spans_ns"].tolist()) for row in every]


def test_what_is_no_request():
    """Q8: a greeting is a push. A reply that begins before its request was read makes a stretch, also of what follows."""
    back, none = FLOW.reversed(), [UNKNOWN, UNKNOWN]
    rows = moved(back, 100, 10, 20)
    expected = [("PUSH", [0, 10], [none, [20, 20]])]
    rows += moved(FLOW, 1, 30, 60) + moved(back, 110, 50, 70)
    expected += [("STRETCH", [10, 10], [[30, 30], [70, 70]])]
    rows += moved(FLOW, 11, 80, 90) + moved(back, 120, 95, 99)
    expected += [("STRETCH", [10, 10], [[80, 80], [99, 99]])]
    rows += moved(FLOW, 21, 100, 110)
    assert kinds(*rows) == expected
    found = requests(Stages(points(*rows), HOSTS), PORT)
    assert len(found.rows) == 0
    assert found.turns.last.tolist() == [False, False, False, True]
    assert (found.every["total_ns"][1:] == UNKNOWN).all()
    assert found.every["time_ns"].tolist() == [10, 30, 80]  # of a stretch the first time that is known
    assert found.every["connection"].tolist() == [0, 0, 0]


def test_a_stretch_of_which_little_is_known():
    """Its time is that of the first byte that was written or read at its end, whichever of them are known."""
    rows = moved(FLOW, 1, 30, 60) + moved(FLOW.reversed(), 110, 50, 70)
    marked = [row.copy() for row in rows]
    for row in marked:
        row["multiplexed"] = 1
    (found,) = requests(Stages(points(*marked), HOSTS), PORT).every
    assert (Kind(found["kind"]), found["time_ns"]) == (Kind.STRETCH, 30)
    pushed = [row for row in marked if row["sport"] == PORT]
    (found,) = requests(Stages(points(*pushed), HOSTS), PORT).every
    assert (Kind(found["kind"]), found["time_ns"], found["spans_ns"].tolist()) == (
        Kind.STRETCH,
        70,
        [[UNKNOWN, UNKNOWN], [70, 70]],
    )


def test_calls_that_are_not_observed():
    """Q1: new data that is sent without a write(), or arrives where nobody reads, stands for the call (io_uring)."""
    back = FLOW.reversed()
    unwritten = [point(30, At.TC_OUT, 1, 10, of_socket=NEW_DATA), *moved(back, 100, 50, 70)]
    assert kinds(*unwritten) == [("REQUEST", [10, 10], [[30, 30], [70, 70]])]
    old = [row.copy() for row in unwritten]
    old[0]["of_socket"] = OLD_DATA
    assert kinds(*old) == [("PUSH", [0, 10], [[UNKNOWN, UNKNOWN], [70, 70]])]
    unread = [point(20, At.WRITE, 1, 10, enter_ns=10), point(60, At.TCP_IN, 100, 10, back, of_socket=NEW_DATA)]
    assert kinds(*unread) == [("REQUEST", [10, 10], [[10, 10], [60, 60]])]
    # A segment of data that was written, or is read, is no call of its own.
    seen = [point(35, At.TC_OUT, 1, 10, of_socket=NEW_DATA), point(65, At.TCP_IN, 100, 10, back, of_socket=NEW_DATA)]
    assert kinds(*moved(FLOW, 1, 30, 40), *moved(back, 100, 50, 70), *seen) == [
        ("REQUEST", [10, 10], [[30, 30], [70, 70]])
    ]


def test_a_pause_in_a_reply():
    """Q4: a pause makes a reply a stream, and a longer one ends it; data that was sent before the pause is no pause."""
    back = FLOW.reversed()
    rows = moved(FLOW, 1, 10, 20) + moved(back, 100, 30, 40) + moved(back, 110, 500, 520)
    assert kinds(*rows) == [("STREAM", [10, 20], [[10, 10], [40, 520]])]
    assert kinds(*rows, gap_ns=400) == [
        ("REQUEST", [10, 10], [[10, 10], [40, 40]]),
        ("PUSH", [0, 10], [[UNKNOWN, UNKNOWN], [520, 520]]),
    ]
    turns = requests(Stages(points(*rows), HOSTS), PORT).turns
    assert turns.pause_ns.tolist() == [509 - 40]  # from the read() to the return of the next write()
    assert requests(Stages(points(*rows), HOSTS), PORT, 400).turns.pause_ns.tolist() == [0, 0]
    late = moved(FLOW, 1, 10, 20) + moved(back, 100, 30, 40) + moved(back, 110, 30, 520)
    assert kinds(*late, gap_ns=400) == [("REQUEST", [10, 20], [[10, 10], [40, 520]])]


def test_a_read_of_several_segments():
    """Segments that one read() returns have its length, and each has its own stages up to it."""
    rows = [point(20 + n, At.DEVICE_IN, 1 + 10 * n, 10) for n in range(3)]
    rows += [point(30 + n, At.TC_IN, 1 + 10 * n, 10) for n in range(3)]
    rows += [point(40 + n, At.TCP_IN, 1 + 10 * n, 10) for n in range(3)]
    rows += [point(50 + n, At.READY, 11 + 10 * n, 0) for n in range(3)]
    rows += [point(70, At.READ, 1, 25, enter_ns=60), point(80, At.READ, 26, 5, enter_ns=75)]
    packets = Stages(points(*rows), HOSTS).packets()
    assert packets["read_length"].tolist() == [25, 25, 5]
    assert packets["stops"][:, Stop.READY].tolist() == [50, 51, 52]
    assert packets["stops"][:, Stop.PICKED].tolist() == [60, 60, 75]
    assert packets["stops"][:, Stop.READ].tolist() == [70, 70, 80]


def test_nothing():
    """Without points, or with a single one, there are no rows."""
    for rows in ((), (point(1, At.READY, 1, 0),)):
        stages = Stages(points(*rows), HOSTS)
        assert len(stages.packets()) == len(requests(stages, PORT).rows) == 0
    assert layers_ns(np.full(len(Stop), UNKNOWN)).tolist() == [UNKNOWN] * len(LAYERS)
    assert elsewhere_ns(np.full(len(Stop), UNKNOWN)) == 0


_POINTS = st.lists(
    st.builds(
        lambda at, time_ns, seq, length, back, flags, calls: point(
            time_ns,
            at,
            seq,
            0 if at is At.READY else length,
            FLOW.reversed() if back else FLOW,
            flags=flags if At.TC_OUT <= at <= At.TCP_IN else 0,
            **dict(zip(("enter_ns", "awake_ns", "woken_ns", "told_ns"), calls, strict=True)),
        ),
        st.sampled_from(At),
        st.integers(100, 200),
        st.integers(0, 30),
        st.integers(0, 20),
        st.booleans(),
        st.sampled_from([0, 0, 0, SYN, SYN | ACK, FIN]),
        st.tuples(st.integers(1, 200), *[st.integers(0, 200)] * 3),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=150)  # the time depends on the machine
@given(made=_POINTS, hosts=st.sampled_from([HOSTS, HOSTS[:1], HOSTS[1:]]))
def test_no_time_is_impossible(made, hosts):
    """Q3: whatever the points are, no layer, rest or total is negative, and a total is the sum of its parts."""
    stages = Stages(points(*made), hosts)
    rows = requests(stages, PORT).rows
    assert (rows["layers_ns"] >= UNKNOWN).all()
    assert (rows["elsewhere_ns"] >= 0).all()
    known = np.where(rows["layers_ns"] == UNKNOWN, 0, rows["layers_ns"]).sum(axis=(1, 2))
    assert (known + rows["elsewhere_ns"] == rows["total_ns"]).all()
    assert (layers_ns(stages.packets()["stops"]) >= UNKNOWN).all()
