"""The judge of the probe `states`: it calls each wrong number wrong, and none of the right ones."""

import pytest
from support.made.observed import (
    PID_OF_CLIENT,
    SYN_ACK_AGAIN,
    TAPS,
    WIRE,
    changed,
    conversation,
    intervals,
    observed,
    refused,
    whatever_is_known,
    with_events,
    without,
    wrong,
)
from support.made.states import change, changes
from support.made.timelines import FLOW

from lab.tcp import State
from lab.timeline import Call, Connection, Timeline

SYN_SENT, ESTABLISHED, BORN, ACCEPTED, CLOSES, HEARS, WAITS, ANSWERS, OVER, GONE = range(10)
THERE, BACK = str(FLOW), str(FLOW.reversed())
SEQUENCE, BEFORE = "state sequence", "state before the first row"


@whatever_is_known
def test_what_is_true(packets, known):
    """A true recording has no wrong number, whatever else is known."""
    assert wrong(observed(packets, **known), "states") == set()
    assert wrong(refused(), "states") == set()


@pytest.mark.parametrize("known", [{}, WIRE])
@pytest.mark.parametrize(
    ("number", "fields", "quantities"),
    [
        (SYN_SENT, {"tgid": 9}, {"owners"}),
        (SYN_SENT, {"oldstate": State.LISTEN}, {BEFORE}),
        (SYN_SENT, {"newstate": State.SYN_RECV}, {SEQUENCE}),
        (ESTABLISHED, {"tgid": PID_OF_CLIENT, "comm": b"client"}, {"owners"}),
        (ESTABLISHED, {"time_ns": 101}, {"ESTABLISHED entered at"}),
        (BORN, {"oldstate": State.SYN_SENT}, {BEFORE}),
        (ACCEPTED, {"handshake_rtt_us": 2}, {"time in SYN_RECV"}),
        (ACCEPTED, {"handshake_rtt_us": 0}, {"time in SYN_RECV"}),
        (ACCEPTED, {"time_ns": 131}, {"ESTABLISHED entered at"}),
        (CLOSES, {"tgid": 9}, {"owners"}),
        (CLOSES, {"tgid": 0}, {"owners"}),
        (CLOSES, {"netns": 99}, {"network namespace"}),
        (CLOSES, {"comm": b"other"}, {"owner's name"}),
        (CLOSES, {"time_ns": 499}, {"FIN_WAIT1 entered at"}),
        (CLOSES, {"time_ns": 511}, {"FIN_WAIT1 entered at"}),
        (HEARS, {"time_ns": 499}, {"CLOSE_WAIT entered at"}),
        (HEARS, {"time_ns": 601}, {"CLOSE_WAIT entered at"}),
        (HEARS, {"tgid": 9}, {"owners"}),
        (WAITS, {"newstate": State.CLOSING}, {SEQUENCE}),
        (WAITS, {"tgid": 9}, {"owners"}),
        (ANSWERS, {"time_ns": 699}, {"LAST_ACK entered at"}),
        (ANSWERS, {"time_ns": 711}, {"LAST_ACK entered at"}),
        (ANSWERS, {"tgid": 0}, {"owners"}),
        (OVER, {"time_ns": 699}, {"TIME_WAIT entered at"}),
        (GONE, {"time_ns": 20_000}, {"CLOSE entered at", "time in LAST_ACK"}),
        (GONE, {"lost": 1}, {SEQUENCE}),
    ],
)
def test_one_wrong_number(number, fields, quantities, known):
    """It contradicts the calls of the applications."""
    assert wrong(changed(observed(**known), "states", number, **fields), "states") == quantities


def test_a_wrong_address():
    """All rows of a socket have the addresses of its application, unless that does not know its own."""
    rows = observed().recording.events["states"].copy()
    rows["laddr"][[SYN_SENT, ESTABLISHED, CLOSES, WAITS, OVER], -1] = 77
    whole = with_events(observed(), "states", rows)
    assert wrong(whole, "states") == {"addresses and ports"}
    whole.connections[0].client.flow = FLOW._replace(laddr="0.0.0.0")  # noqa: S104 (not known)
    assert wrong(whole, "states") == set()


@pytest.mark.parametrize("number", range(10))
def test_one_change_that_was_missed(number):
    """The sequence of states lacks it."""
    assert SEQUENCE in wrong(without(observed(), "states", number), "states")


def test_times_by_the_calls():
    """Each state is entered inside a call, or between the calls that send and report what the state waits for."""
    found = intervals(observed(), "states")
    assert {key: found[key] for key in found if key[1].endswith("entered at") or "time in" in key[1]} == {
        (THERE, "SYN_SENT entered at"): (0, 100),
        (THERE, "ESTABLISHED entered at"): (0, 100),
        (THERE, "FIN_WAIT1 entered at"): (500, 510),
        (THERE, "FIN_WAIT2 entered at"): (500, 10_000),
        (THERE, "TIME_WAIT entered at"): (700, 10_000),
        (THERE, "time in SYN_SENT"): (0, 100),
        (THERE, "time in ESTABLISHED"): (400, 510),
        (THERE, "time in FIN_WAIT1"): (0, 9500),
        (THERE, "time in FIN_WAIT2"): (0, 9500),
        (BACK, "SYN_RECV entered at"): (0, 130),
        (BACK, "ESTABLISHED entered at"): (0, 130),
        (BACK, "CLOSE_WAIT entered at"): (500, 600),
        (BACK, "LAST_ACK entered at"): (700, 710),
        (BACK, "CLOSE entered at"): (700, 10_000),
        (BACK, "time in SYN_RECV"): (0, 130),
        (BACK, "time in ESTABLISHED"): (370, 600),
        (BACK, "time in CLOSE_WAIT"): (100, 210),
        (BACK, "time in LAST_ACK"): (0, 9300),
    }
    assert found[THERE, "time from FIN_WAIT1 to TIME_WAIT"] == (190, 9500)


def test_least_times_by_the_wire():
    """What a side waited for was on the wire that long."""
    by_calls, by_wire = intervals(observed(), "states"), intervals(observed(**WIRE), "states")
    assert {key: by_wire[key] for key in by_wire if by_wire[key] != by_calls[key]} == {
        (THERE, "time in SYN_SENT"): (54 - 13, 100),
        (THERE, "time in FIN_WAIT1"): (539 - 508, 9500),
        (BACK, "time in SYN_RECV"): (84 - 43, 130),
        (BACK, "time in LAST_ACK"): (739 - 708, 9300),
    }


def test_times_by_the_taps():
    """Each state is entered right before the segment that it sends, or right after the one that it waits for."""
    found = intervals(observed(**TAPS), "states")
    assert {key[1]: found[key] for key in found if key[0] == THERE and key[1].endswith("entered at")} == {
        "SYN_SENT entered at": (0, 13),
        "ESTABLISHED entered at": (57, 73),
        "FIN_WAIT1 entered at": (500, 508),
        "FIN_WAIT2 entered at": (542, 600),
        "TIME_WAIT entered at": (722, 800),
    }
    assert {key[1]: found[key] for key in found if key[0] == BACK and key[1].endswith("entered at")} == {
        "SYN_RECV entered at": (87, 130),
        "ESTABLISHED entered at": (87, 130),
        "CLOSE_WAIT entered at": (522, 533),
        "LAST_ACK entered at": (700, 708),
        "CLOSE entered at": (742, 800),
    }
    assert found[THERE, "time from FIN_WAIT1 to TIME_WAIT"] == (722 - 508, 800 - 500)


def test_syn_recv_of_a_syn_ack_that_was_sent_again_is_not_known():
    """A time there is made up."""
    assert wrong(observed(SYN_ACK_AGAIN, **WIRE), "states") == {"time in SYN_RECV"}
    assert wrong(changed(observed(SYN_ACK_AGAIN, **WIRE), "states", ACCEPTED, handshake_rtt_us=0), "states") == set()


@pytest.mark.parametrize(
    ("call", "owner", "quantities"),
    [
        ("close", PID_OF_CLIENT, set()),
        ("close", 0, {"owners"}),
        ("shutdown", 0, set()),
        ("shutdown", PID_OF_CLIENT, {"owners"}),
    ],
)
def test_who_has_a_socket_after_its_end(call, owner, quantities):
    """After close() the owner is known. After shutdown() another process may have the socket."""
    both = conversation()
    both.client.calls[-1] = both.client.calls[-1]._replace(name=call)
    whole = with_events(observed(), "states", observed().recording.events["states"])
    rows = whole.recording.events["states"]
    rows["closed"][CLOSES] = 0
    rows["tgid"][[WAITS, OVER]], rows["comm"][[WAITS, OVER]] = owner, "client"
    whole.connections = [both]
    assert wrong(whole, "states") == quantities


RESET = [Call("linger0", 480, 490), Call("close", 500, 510)]


@pytest.mark.parametrize("owner", [PID_OF_CLIENT, 0])
@pytest.mark.parametrize("both", [False, True])
def test_a_reset(owner, both):
    """The RST of the closer ends its connection inside its call; if both reset, that of the other may have ended it."""
    ends = conversation()
    client = Timeline("client", FLOW, pid=PID_OF_CLIENT, comm="client", calls=[*ends.client.calls[:-1], *RESET])
    server = Timeline(
        "server",
        FLOW.reversed(),
        pid=ends.server.pid,
        calls=[*ends.server.calls[:3], *([Call("linger0", 330, 340)] if both else []), Call("close", 505, 515)],
    )
    its = {"netns": 2, "flow": FLOW.reversed(), "skaddr": 0xB0}
    rows = changes(
        change(5, "CLOSE -> SYN_SENT", FLOW, tgid=PID_OF_CLIENT, comm="client"),
        change(62, "SYN_SENT -> ESTABLISHED", FLOW),
        change(92, "LISTEN -> SYN_RECV", **its),
        change(93, "SYN_RECV -> ESTABLISHED", handshake_rtt_us=1, **its),
        change(506, "ESTABLISHED -> CLOSE", FLOW, tgid=owner, comm="client"),
        change(508, "ESTABLISHED -> CLOSE", **its),
    )
    whole = with_events(observed(), "states", rows)
    whole.connections = [Connection(client, server)]
    assert wrong(whole, "states") == ({"owners"} if owner == 0 and not both else set())


def test_a_stillborn_socket_is_not_a_connections():
    """The kernel can create two sockets for one request; the one that nobody accepted is left out."""
    whole = observed()
    its = {"netns": 2, "flow": FLOW.reversed(), "skaddr": 0xC0}
    rows = [change(80, "LISTEN -> SYN_RECV", **its), change(81, "SYN_RECV -> CLOSE", **its)]
    events = changes(*sorted([*whole.recording.events["states"], *rows], key=lambda row: row["time_ns"]))
    assert wrong(with_events(whole, "states", events), "states") == set()
