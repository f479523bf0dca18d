"""The truth about connections that data in the SYN opens (RFC 7413), and about servers that wait for data (TCP_DEFER_ACCEPT)."""

from itertools import pairwise

import pytest
from support.made.observed import PACKETS, observed
from support.made.timelines import END, FLOW

from lab.tcp import State
from lab.timeline import FAST_OPEN, Call, Connection, Timeline
from lab.truth.requests import exchanges
from lab.truth.rtt import Sent, sent_by_client, sent_by_server
from lab.truth.states import Entered, Waits, client_paths, server_paths

CLIENT_CALLS = [
    Call(FAST_OPEN, 0, 0),
    Call("send", 5, 100, 300),
    Call("recv", 220, 400, 300),
    Call("close", 500, 510),
]
SERVER_CALLS = [
    Call(FAST_OPEN, 0, 0),
    Call("accept", 10, 60),
    Call("recv", 70, 80, 300),
    Call("send", 85, 90, 300),
    Call("recv", 91, 600, 0),
    Call("close", 700, 710),
]


def opened(client=CLIENT_CALLS, server=SERVER_CALLS):
    return Connection(Timeline("client", FLOW, calls=client), Timeline("server", FLOW.reversed(), calls=server))


def shown(path):
    return {it.state.name: (it.earliest_ns, it.latest_ns) for it in path}


def test_paths_of_the_client():
    """The call that sends the first data opens the connection."""
    (path,) = client_paths(opened(), END)
    assert shown(path) == {
        "SYN_SENT": (5, 100),
        "ESTABLISHED": (5, 100),
        "FIN_WAIT1": (500, 510),
        "FIN_WAIT2": (500, END),
        "TIME_WAIT": (700, END),
    }


def test_paths_of_the_server():
    """The child is created for the SYN. The final ACK may come after accept(), until the server has read more than that data."""
    (path,) = server_paths(opened(), END)
    assert shown(path)["SYN_RECV"] == (5, 60)
    assert shown(path)["ESTABLISHED"] == (5, 600)  # when it had read the FIN
    more = [*SERVER_CALLS[:3], Call("recv", 81, 84, 1), *SERVER_CALLS[3:]]
    assert shown(server_paths(opened(server=more), END)[0])["ESTABLISHED"] == (5, 84)
    unread = [*SERVER_CALLS[:4], SERVER_CALLS[-1]]
    assert shown(server_paths(opened(server=unread), END)[0])["ESTABLISHED"] == (5, END)


@pytest.mark.parametrize(("linger", "state"), [([], State.FIN_WAIT1), ([Call("linger0", 92, 93)], State.CLOSE)])
def test_a_server_that_closes_first(linger, state):
    """It may never have been in ESTABLISHED: the final ACK can come after its FIN or RST."""
    calls = [*SERVER_CALLS[:4], *linger, Call("close", 95, 99)]
    late = [*CLIENT_CALLS[:3], Call("recv", 405, 450, 0, "ECONNRESET" if linger else ""), CLIENT_CALLS[3]]
    paths = [[it.state for it in path] for path in server_paths(opened(late, calls), END)]
    assert [State.SYN_RECV, State.ESTABLISHED, state] in [path[:3] for path in paths]
    assert [State.SYN_RECV, state] in [path[:2] for path in paths]
    assert all(path[0] is State.SYN_RECV for path in paths)


def test_a_server_that_closes_last_was_in_established():
    """The FIN of the client acknowledges the SYN-ACK, too."""
    assert [[it.state.name for it in path][:2] for path in server_paths(opened(), END)] == [["SYN_RECV", "ESTABLISHED"]]


def test_samples():
    """The SYN-ACK acknowledges the SYN with its data: one sample for both. What the server sends may have one for all."""
    syn, request = sent_by_client(opened(), END)
    assert (syn, request) == (Sent(95, 1, certain=True), Sent(395, 1, certain=False))
    assert sent_by_server(opened(), END) == [
        Sent(END - 5, 1, certain=False),
        Sent(END - 5, 1, certain=False),
    ]


def test_a_syn_ack_that_was_sent_again_may_have_no_sample():
    """Of an ordinary connection, the handshake's is certain otherwise."""
    ordinary = observed().connections[0]
    assert [it.certain for it in sent_by_server(ordinary, END)] == [True, True]
    assert [it.certain for it in sent_by_server(ordinary, END, syn_ack_again=True)] == [False, True]


def test_the_first_request_may_be_in_the_syn():
    """No later one."""
    more_c = [*CLIENT_CALLS[:3], Call("send", 410, 420, 10), Call("recv", 430, 480, 10), CLIENT_CALLS[3]]
    more_s = [*SERVER_CALLS[:4], Call("recv", 91, 440, 10), Call("send", 450, 460, 10), *SERVER_CALLS[4:]]
    more_s[6] = Call("recv", 461, 600, 0)
    assert [it.in_syn for it in exchanges(opened(more_c, more_s))] == [True, False]
    assert [it.in_syn for it in exchanges(observed().connections[0])] == [False]


def carried(packets):
    ((_, on_wire),) = observed(packets, wire=True).with_wire()
    return on_wire


WITH_DATA = [PACKETS[0]._replace(payload=300), *PACKETS[1:]]
TWICE = [*PACKETS[:2], PACKETS[1]._replace(left_ns=45, came_ns=65), *PACKETS[2:]]
BY_DATA = [packet for packet in PACKETS if packet is not PACKETS[2]]


@pytest.mark.parametrize(
    ("packets", "calls", "unmeasured"),
    [
        (PACKETS, SERVER_CALLS[1:], set()),
        (TWICE, SERVER_CALLS[1:], {State.SYN_RECV}),
        (BY_DATA, SERVER_CALLS[1:], {State.SYN_RECV}),
        (PACKETS, [Call("deferred", 0, 0), *SERVER_CALLS[1:]], {State.SYN_RECV}),
        (PACKETS, SERVER_CALLS, set()),  # the SYN that came had no data: as without Fast Open
        (TWICE, SERVER_CALLS, {State.SYN_RECV}),
        (WITH_DATA, SERVER_CALLS, set()),
        ([WITH_DATA[0], *TWICE[1:]], SERVER_CALLS, set()),  # the child is there since the SYN: its time is measured
    ],
)
def test_where_the_time_in_syn_recv_is_not_known(packets, calls, unmeasured):
    """The kernel takes no sample of a SYN-ACK that it sent again, or that data acknowledged."""
    side = opened(server=calls).server
    assert Waits(carried(packets), side).unmeasured == unmeasured
    deferred = any(call.name == "deferred" for call in calls)
    assert Waits(None, side).unmeasured == ({State.SYN_RECV} if deferred else set())


def test_waits_of_both_sides():
    """Each lasted at least as long as the wire held what it waited for."""
    on_wire, times = carried(PACKETS), (1000, 2000)
    client, server = opened(CLIENT_CALLS[1:]).client, opened(server=SERVER_CALLS[1:]).server
    for side, states, least in (
        (client, (State.SYN_SENT, State.ESTABLISHED), 54 - 13),
        (client, (State.FIN_WAIT1, State.FIN_WAIT2), 539 - 508),
        (client, (State.FIN_WAIT1, State.TIME_WAIT), 539 - 508),
        (client, (State.FIN_WAIT2, State.TIME_WAIT), 0),
        (server, (State.SYN_RECV, State.ESTABLISHED), 84 - 43),
        (server, (State.LAST_ACK, State.CLOSE), 739 - 708),
        (server, (State.CLOSE_WAIT, State.LAST_ACK), 0),
    ):
        ((left, entered),) = pairwise(Entered(state, *times) for state in states)
        found = Waits(on_wire, side).bracket(left, entered)
        assert (found.low, found.high) == (least, 1000), states
        assert found.low <= found.best <= found.high
        assert Waits(None, side).bracket(left, entered).low == 0
