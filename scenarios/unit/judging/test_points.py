"""Points of a connection that tools measure between, and what happened as plain data: from one conversation made by hand."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.made.observed import PACKETS, PID_OF_CLIENT, PID_OF_SERVER, conversation, observed, refused
from support.made.timelines import END, FLOW

from lab.judging.happened import Carried, connections_of, rtt_of
from lab.judging.points import Point, between, least_ns, of_requests, of_socket
from lab.truth.durations import SYN_INTERVAL_NS

LIVE, LOGGED = observed(), observed(wire=True)


def points(whole=LIVE, *, by_client=True):
    """Return the interval of each point of one side."""
    ((it, on_wire),) = whole.with_wire()
    return {
        name: (point.low_ns, point.high_ns)
        for name, point in of_socket(it, on_wire, whole.end_ns, by_client=by_client).items()
    }


CALLS = {"connect_called": (0, 0), "connect_returned": (100, 100), "accept_returned": (130, 130)}
SEEN = {"syn_seen": (0, 100), "first_end_seen": (500, 600), "second_fin_seen": (700, END)}


def test_points_of_a_client():
    """The calls are known exactly, the segments and the states by the calls around them."""
    assert points() == CALLS | SEEN | {
        "close_called": (500, 500),
        "close_returned": (510, 510),
        "syn_sent_entered": (0, 100),
        "established_entered": (0, 100),
        "fin_wait1_entered": (500, 510),
        "fin_wait2_entered": (500, END),
        "time_wait_entered": (700, END),
        "socket_opened": (0, 100),
        "socket_closed": (500, END),
    }


def test_points_of_a_server():
    """It enters states of its own; the segments are those at the client's interface."""
    assert points(by_client=False) == CALLS | SEEN | {
        "close_called": (700, 700),
        "close_returned": (710, 710),
        "syn_recv_entered": (0, 130),
        "established_entered": (0, 130),
        "close_wait_entered": (500, 600),
        "last_ack_entered": (700, 710),
        "close_entered": (700, END),
        "socket_opened": (0, 130),
        "socket_closed": (700, END),
    }


def test_points_on_the_wire():
    """What the client sent passed its interface before the wire had it; what it received, after the wire had sent it."""
    found = points(LOGGED)
    assert {name: found[name] for name in found if found[name] != points().get(name)} == {
        "syn_seen": (0, 13),
        "last_syn_seen": (0, 13),
        "ack_seen": (54, 73),
        "synack_seen": (54, 73),
        "last_seen": (719, 733),
        "first_end_seen": (500, 508),
        "second_fin_seen": (719, 733),
        "syn_sent_entered": (0, 13),
        "established_entered": (54, 73),
        "socket_opened": (0, 13),
    }
    server = points(LOGGED, by_client=False)
    assert {name: server[name] for name in ("syn_recv_entered", "established_entered", "socket_opened")} == {
        "syn_recv_entered": (0, 130),
        "established_entered": (0, 130),
        "socket_opened": (0, 130),
    }


def test_a_syn_that_was_sent_again():
    """The last one passed at least a second after the first, and before the wire had it."""
    late = PACKETS[0]._replace(left_ns=20, came_ns=38)
    found = points(observed([PACKETS[0], late, *PACKETS[1:]], wire=True))
    assert found["syn_seen"] == (0, 13)
    assert found["last_syn_seen"] == (SYN_INTERVAL_NS, 23)  # the made one comes sooner than any kernel sends it
    assert found["syn_sent_entered"] == (0, 13)


def test_a_socket_that_ends_by_shutdown():
    """It is a full socket until TIME_WAIT. After close(), a minisock has replaced it from FIN_WAIT2 on."""
    both = conversation()
    both.client.calls[-1] = both.client.calls[-1]._replace(name="shutdown")
    found = points(replace(LIVE, connections=[both]))
    assert found["socket_closed"] == (700, END)
    assert found["close_called"] == (500, 500)


def test_a_refused_connection():
    """It has no second FIN, and was never in ESTABLISHED."""
    assert points(refused()) == {
        "connect_called": (0, 0),
        "connect_returned": (100, 100),
        "close_called": (120, 120),
        "close_returned": (130, 130),
        "syn_seen": (0, 100),
        "first_end_seen": (0, 100),
        "syn_sent_entered": (0, 100),
        "close_entered": (0, 100),
        "socket_opened": (0, 100),
        "socket_closed": (0, 100),
    }
    assert not {"close_called", "close_entered", "socket_opened"} & points(refused(), by_client=False).keys()


def test_points_of_a_request():
    """They are inside the calls that write and read."""
    (request,) = of_requests(conversation())
    assert {name: (point.low_ns, point.high_ns) for name, point in request.items()} == {
        "request_written": (200, 210),
        "request_read": (200, 250),
        "reply_written": (300, 320),
        "reply_read": (300, 400),
    }


def test_least_times():
    """An answer to the SYN takes at least as long as the wire held both."""
    ((_, on_wire),) = LOGGED.with_wire()
    least = least_ns(on_wire)
    assert set(least.values()) == {54 - 13}
    assert {"syn_seen>synack_seen", "connect_called>connect_returned"} < least.keys()
    assert len(least) == 9
    assert least_ns(None) == {}


TIMES = st.integers(0, 1000)


@given(TIMES, TIMES, TIMES, TIMES, st.integers(0, 50))
def test_the_time_between_two_points(low, width, later, width_of_later, least):
    """Whatever the times of both points are, the time between them is inside; the best estimate is, too."""
    start, end = Point(low, low + width, ""), Point(later, later + width_of_later, "")
    found = between({"a": start, "b": end}, "a", "b", {"a>b": least})
    assert found.low == max(0, later - low - width, least)
    assert found.high == later + width_of_later - low
    if found.low <= found.high:
        assert found.low <= found.best <= found.high
    middle = (later + later + width_of_later - low - low - width) // 2
    assert not found.low <= middle <= found.high or found.best == middle


@pytest.mark.parametrize(("start", "end"), [("a", "c"), ("c", "a")])
def test_a_point_that_was_not_reached(start, end):
    """There is no time."""
    assert between({"a": Point(1, 2, "")}, start, end, {}) is None


def test_what_happened():
    """Both sockets with their points, sequences and times, and what the wire carried."""
    (it,) = connections_of(LOGGED)
    assert (it.client.flow, it.client.role, it.client.pid) == (FLOW, "client", PID_OF_CLIENT)
    assert (it.server.flow, it.server.role, it.server.pid) == (FLOW.reversed(), "server", PID_OF_SERVER)
    assert it.client.sequences == [["SYN_SENT", "ESTABLISHED", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT"]]
    assert it.server.sequences == [["SYN_RECV", "ESTABLISHED", "CLOSE_WAIT", "LAST_ACK", "CLOSE"]]
    assert [(wait.state, wait.low_ns, wait.high_ns) for wait in it.client.waits] == [
        ("SYN_SENT", 41, 100),
        ("ESTABLISHED", 400, 510),
        ("FIN_WAIT1", 31, 9500),
        ("FIN_WAIT2", 0, 9500),
    ]
    assert [(wait.state, wait.low_ns, wait.high_ns) for wait in it.server.waits] == [
        ("SYN_RECV", 41, 130),
        ("ESTABLISHED", 370, 600),
        ("CLOSE_WAIT", 100, 210),
        ("LAST_ACK", 31, 9300),
    ]
    assert it.to_server == Carried(6, 6 * 54 + 300, 6 * 40 + 300, 300, 0)
    assert it.to_client == Carried(5, 5 * 54 + 300, 5 * 40 + 300, 300, 0)
    assert (it.error, len(it.requests), len(it.least_ns)) == ("", 1, 9)


def test_what_happened_without_a_log_or_a_server():
    """Nothing is known of the wire. A refused connection has one socket."""
    (it,) = connections_of(LIVE)
    assert (it.to_server, it.to_client, it.least_ns) == (None, None, {})
    (it,) = connections_of(refused())
    assert (it.server, it.error, it.requests) == (None, "ECONNREFUSED", [])


def test_a_handshake_without_a_sample_has_no_time():
    """No tool can know it."""
    again = observed([*PACKETS[:2], PACKETS[1]._replace(left_ns=45, came_ns=65), *PACKETS[2:]], wire=True)
    (it,) = connections_of(again)
    assert [wait.state for wait in it.server.waits] == ["ESTABLISHED", "CLOSE_WAIT", "LAST_ACK"]
    assert (it.to_client.again, it.to_server.again) == (1, 0)


def test_bounds_of_rtts():
    """Samples of the client are at least as long as the wire's round trip, and at most as its applications waited."""
    held = rtt_of(LOGGED)
    assert (held.low_ns, held.high_ns, held.least, held.most) == (12, 200, 2, 2)
    assert rtt_of(LIVE).low_ns == 0
