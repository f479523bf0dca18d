"""Requests live: with any division of the points into batches, each request is returned once, complete, and soon."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.made.layers import CLIENT_NETNS, FLOW, MSS, PORT, SERVER_NETNS, Network, point, points, talk

from lab.packet import FIN, RST
from lab.probes.layers.requests import Kind, requests
from lab.probes.layers.stages import At, Stages
from lab.probes.layers.tracker import QUIET_NS, RequestTracker, SegmentTracker
from lab.units import MS, SECOND

HOSTS = (CLIENT_NETNS, SERVER_NETNS)
BACK = FLOW.reversed()


def traffic(seed):
    """Return points of simultaneous connections: one with losses, and two that use the same flow."""
    network, lossy = Network(seed), Network(seed + 1, loss=0.2, spurious=0.2)
    network.open(FLOW, 10, 20)
    talk(network, FLOW, (10, 20), 3)
    network.rows.append(point(network.later(), At.TC_OUT, 5, 0, FLOW, flags=FIN))
    network.open(FLOW, 7_000_000, 8_000_000)
    talk(network, FLOW, (7_000_000, 8_000_000), 2)
    other = FLOW._replace(lport=40001)
    lossy.open(other, (1 << 32) - MSS, 30)
    talk(lossy, other, ((1 << 32) - MSS, 30), 3)
    return points(*network.rows, *lossy.rows)


def shown_fields(rows):
    """Return the fields of requests that a user sees, sorted."""
    names = ("cport", "bytes", "stops", "layers_ns", "sent", "elsewhere_ns", "total_ns")
    return sorted([row[name].tolist() for name in names] for row in rows)


@settings(deadline=None, max_examples=25)  # the time depends on the machine
@given(
    seed=st.integers(0, 1 << 32),
    cuts=st.lists(st.integers(0, 2000), max_size=6),
    hosts=st.sampled_from([HOSTS, HOSTS[:1], HOSTS[1:]]),
)
def test_batches_make_no_difference(seed, cuts, hosts):
    """Any division into batches returns the same requests as one batch, each once."""
    everything = traffic(seed)
    whole = requests(Stages(everything, hosts), PORT).every
    tracker = RequestTracker(PORT, hosts)
    batches = np.split(everything, sorted(min(cut, len(everything)) for cut in cuts))
    shown = [tracker.rows(batch, int(batch["time_ns"][-1]) if len(batch) else 0) for batch in batches]
    shown.append(tracker.rows(everything[:0], 0, final=True))
    assert shown_fields(np.concatenate(shown)) == shown_fields(whole)
    assert tracker.end() == ""


@settings(deadline=None, max_examples=25)  # the time depends on the machine
@given(seed=st.integers(0, 1 << 32), cuts=st.lists(st.integers(0, 2000), max_size=6))
def test_every_segment_is_returned_once(seed, cuts):
    """Any division into batches returns each segment once, with its fate."""
    everything = traffic(seed)
    whole = Stages(everything, HOSTS).packets()
    tracker = SegmentTracker(PORT, HOSTS)
    batches = np.split(everything, sorted(min(cut, len(everything)) for cut in cuts))
    shown = [tracker.rows(batch, int(batch["time_ns"][-1]) if len(batch) else 0) for batch in batches]
    shown.append(tracker.rows(everything[:0], 1 << 60, final=True))
    assert sorted(row.tobytes() for row in np.concatenate(shown)) == sorted(row.tobytes() for row in whole)


def request(begin_ns=1000, seq=1, reply_seq=100):
    """Return the points of a request of 10 µs. The write() of the reply returns last."""
    rows = [point(begin_ns + 1000, At.WRITE, seq, 10, enter_ns=begin_ns)]
    rows += [point(begin_ns + 100 * at, at, seq, 10, tsval=1) for at in (At.TC_OUT, At.DEVICE_OUT)]
    rows += [point(begin_ns + 5000, At.READ, seq, 10, enter_ns=begin_ns + 4000)]
    rows += [point(begin_ns + 8000, At.TC_OUT, reply_seq, 10, BACK, tsval=1)]
    rows += [point(begin_ns + 10_000, At.READ, reply_seq, 10, BACK, enter_ns=begin_ns + 2000)]
    return [*rows, point(begin_ns + 12_000, At.WRITE, reply_seq, 10, BACK, enter_ns=begin_ns + 7000)]


def test_when_a_request_is_over():
    """A request is over when the next one begins, soon after a close of both ends, or after a pause."""
    tracker = RequestTracker(PORT, HOSTS)
    assert len(tracker.rows(points(*request()), 20_000)) == 0
    assert len(tracker.rows(points(*request(100_000, 11, 110)), 200_000)) == 1
    assert len(tracker.rows(points(), 100_000 + QUIET_NS)) == 0
    assert len(tracker.rows(points(), 120_000 + QUIET_NS)) == 1
    assert len(tracker.rows(points(*request(3 * SECOND, 21, 120)), 3 * SECOND)) == 0
    close = [point(3 * SECOND + 20_000, At.TC_OUT, 31, 0, flags=FIN)]
    assert len(tracker.rows(points(*close), 3 * SECOND + 500 * MS)) == 0
    close.append(point(3 * SECOND + 510 * MS, At.TC_OUT, 130, 0, BACK, flags=FIN))
    assert len(tracker.rows(points(close[1]), 3 * SECOND + 520 * MS)) == 0
    assert len(tracker.rows(points(), 3 * SECOND + 600 * MS)) == 1
    assert len(tracker.rows(points(), 0, final=True)) == 0
    assert tracker.end() == ""


@pytest.mark.parametrize("first", [FLOW, BACK])
def test_one_end_that_closes_does_not_end_a_request(first):
    """The other end may still send. A RST ends the connection alone."""
    tracker = RequestTracker(PORT, HOSTS)
    seq = 11 if first == FLOW else 110
    assert len(tracker.rows(points(*request(), point(20_000, At.TC_OUT, seq, 0, first, flags=FIN)), 500 * MS)) == 0
    assert len(tracker.rows(points(point(500 * MS, At.TC_OUT, seq + 1, 0, first, flags=RST)), 540 * MS)) == 0
    assert len(tracker.rows(points(), 560 * MS)) == 1


def test_a_request_waits_for_the_return_of_a_write():
    """A reply that was read before its write() returned is returned after that."""
    tracker = RequestTracker(PORT, HOSTS)
    *early, late = request()
    following = request(100_000, 11, 110)
    assert len(tracker.rows(points(*early, *following[:3]), 200_000)) == 0
    (row,) = tracker.rows(points(late), 200_000)
    assert row["layers_ns"][1][0] == 2000
    assert len(tracker.rows(points(*following[3:]), 0, final=True)) == 1


def test_a_request_without_a_reply_is_counted():
    """A greeting is a row, and a request without a reply is counted in the closing note."""
    tracker = RequestTracker(PORT, HOSTS)
    greeting = [point(10, At.WRITE, 1, 10, BACK, enter_ns=5), point(20, At.READ, 1, 10, BACK, enter_ns=15)]
    tracker.rows(points(*greeting), 100)
    (row,) = tracker.rows(points(*request(1000, 1, 11)[:3]), 5000)
    assert (Kind(row["kind"]), row["bytes"].tolist()) == (Kind.PUSH, [0, 10])
    tracker.rows(points(), 0, final=True)
    assert tracker.end() == "requests without a reply: 1"


def test_a_multiplexed_connection_stays_one():
    """Q2: once directions have overlapped, or with the preface of HTTP/2, all rows of a connection are stretches."""
    for mark in (0, 1):
        tracker = RequestTracker(PORT, HOSTS)
        first = request()
        first[1]["multiplexed"] = mark
        first[3]["time_ns"] += 0 if mark else 3500  # of the read(): the reply has begun
        kinds = []
        for number, made in enumerate([first, request(100_000, 11, 110), request(3 * SECOND, 21, 120)]):
            kinds += tracker.rows(points(*made), number * SECOND)["kind"].tolist()
        kinds += tracker.rows(points(), 0, final=True)["kind"].tolist()
        assert kinds == [Kind.STRETCH] * 3


def test_a_long_request_does_not_fill_the_memory(monkeypatch):
    """The oldest points of an endless request are forgotten and counted."""
    monkeypatch.setattr("lab.probes.layers.tracker.MOST_POINTS", 50)
    tracker = RequestTracker(PORT, HOSTS)
    for number in range(100):
        tracker.rows(points(point(10 + number, At.WRITE, 1 + number, 1, enter_ns=5 + number)), 1000)
    assert tracker.end() == "forgotten points of requests that were too long: 50"


@pytest.mark.parametrize("hosts", [HOSTS, None])
def test_nothing(hosts):
    """Empty batches return no rows."""
    for tracker in (RequestTracker(PORT, hosts), SegmentTracker(PORT, hosts)):
        assert len(tracker.rows(points(), 5)) == len(tracker.rows(points(), 0, final=True)) == 0
        assert tracker.end() == ""
