"""The judge of the probe `duration`: it calls each wrong number wrong, and none of the right ones."""

from dataclasses import replace

import numpy as np
import pytest
from support.made.observed import (
    CLIENT,
    DEVICES,
    TAPS,
    WIRE,
    changed,
    checks,
    intervals,
    observed,
    refused,
    whatever_is_known,
    with_events,
    without,
    wrong,
)
from support.made.timelines import FLOW

from lab.packet import ACK, FIN, RST, SYN
from lab.tcp import Flow
from lab.timeline import Call

# The segments that the probe reports, at the client (C) and at the server (S), in order of time.
SYN_C, SYN_S, ANSWER_S, ANSWER_C, FIN_C, FIN_S, LAST_S, LAST_C = range(8)
AT_CLIENT, AT_SERVER = f"{FLOW} at client of the client", f"{FLOW} at server of the server"
FIRST, LIFE, SECOND = "first FIN or RST at", "first SYN to first FIN or RST", "first SYN to second FIN"
ANSWER, STRANGE = "first SYN to SYN-ACK", "rows without a connection"


@whatever_is_known
def test_what_is_true(packets, known):
    """A true recording has no wrong number, whatever else is known."""
    assert wrong(observed(packets, **known), "duration") == set()


@pytest.mark.parametrize("known", [{}, WIRE])
@pytest.mark.parametrize(
    ("number", "fields", "quantities"),
    [
        (ANSWER_S, {"time_ns": 200}, {ANSWER}),
        (ANSWER_C, {"time_ns": 200}, {ANSWER}),
        (FIN_C, {"time_ns": 499}, {FIRST}),
        (FIN_S, {"time_ns": 499}, {FIRST}),
        (FIN_C, {"flags": RST | ACK}, {"ended by", SECOND}),
        (LAST_C, {"time_ns": 20_000}, {SECOND}),
        (LAST_S, {"time_ns": 20_000}, {SECOND}),
        (LAST_S, {"flags": RST}, {"ended by", SECOND}),
    ],
)
def test_one_wrong_number(number, fields, quantities, known):
    """It contradicts the calls of the applications."""
    assert wrong(changed(observed(**known), "duration", number, **fields), "duration") == quantities


@pytest.mark.parametrize(
    ("number", "quantities"),
    [
        (SYN_C, {"first SYN at", ANSWER, LIFE, SECOND}),
        (ANSWER_C, {ANSWER}),
        (FIN_C, {"ended by", "closed first by", FIRST, LIFE, SECOND}),
        (LAST_S, {"ended by", SECOND}),
    ],
)
def test_one_segment_that_was_missed(number, quantities):
    """What followed from it is wrong."""
    assert wrong(without(observed(), "duration", number), "duration") >= quantities


def at(ifindex, whole):
    return whole.recording.events["duration"]["ifindex"] == ifindex


def rows_of(whole, chosen):
    return with_events(whole, "duration", whole.recording.events["duration"][chosen])


@pytest.mark.parametrize("ifindex", [2, 3])
def test_a_connection_that_was_not_seen(ifindex):
    """Its interface has no row of it."""
    whole = observed()
    assert wrong(rows_of(whole, ~at(ifindex, whole)), "duration") == {"seen"}


@pytest.mark.parametrize(
    ("fields", "quantities"),
    [
        ({"dport": 1}, {"seen"}),  # of a server that no connection had
        ({"sport": 1}, {STRANGE, "seen"}),
    ],
)
def test_a_connection_that_never_was(fields, quantities):
    """A row of another client to the server is one too many."""
    whole = observed()
    rows = whole.recording.events["duration"].copy()
    for name, value in fields.items():
        peer = {"sport": "dport", "dport": "sport"}[name]
        there, here = (rows["sport"] == FLOW.lport), (rows["ifindex"] == 2)
        rows[name][there & here] = value
        rows[peer][~there & here] = value
    assert wrong(with_events(whole, "duration", rows), "duration") == quantities


def test_a_row_of_one_direction():
    """Both directions pass the interface."""
    whole = observed()
    rows = whole.recording.events["duration"]
    alone = rows_of(whole, ~at(2, whole) | (rows["sport"] == FLOW.lport))
    assert "only from" in wrong(alone, "duration")


def test_a_row_with_another_address():
    """A client that knows its address has it in the row."""
    whole = observed()
    rows = whole.recording.events["duration"].copy()
    for name in ("saddr", "daddr"):
        mine = rows["sport" if name == "saddr" else "dport"] == FLOW.lport
        rows[name][mine & at(2, whole), -1] = 77
    assert wrong(with_events(whole, "duration", rows), "duration") == {"client's address"}
    whole = with_events(whole, "duration", rows)
    whole.connections[0].client.flow = FLOW._replace(laddr="0.0.0.0")  # noqa: S104 (not known to the application)
    assert "client's address" not in {check.quantity for check in checks(whole, "duration")}


@pytest.mark.parametrize(("flag", "quantity"), [(SYN, "SYN retransmissions"), (FIN, "FIN retransmissions")])
def test_one_retransmission_too_many(flag, quantity):
    """The wire's log has the number of each. Without it, a SYN takes a second before it is sent again."""
    whole = observed(**WIRE)
    rows = whole.recording.events["duration"]
    (first,) = rows[(rows["flags"] & flag > 0) & at(2, whole) & (rows["sport"] == FLOW.lport)]
    again = first.copy()
    again["time_ns"] += 1
    more = np.sort(np.append(rows, again), order="time_ns")
    assert wrong(with_events(whole, "duration", more), "duration") == {quantity}
    alone = wrong(with_events(observed(), "duration", more), "duration")
    assert alone == ({quantity} if flag == SYN else set())


def test_times_by_the_calls():
    """Both interfaces have the same bounds."""
    found = intervals(observed(), "duration")
    for place in (AT_CLIENT, AT_SERVER):
        assert {name: found[place, name] for name in ("first SYN at", ANSWER, FIRST, LIFE, SECOND)} == {
            "first SYN at": (0, 100),
            ANSWER: (0, 130),
            FIRST: (500, 600),
            LIFE: (400, 600),
            SECOND: (600, 10_000),
        }


def test_times_by_the_wire():
    """What a host sends passes its interface before the wire has it, what it receives after the wire has sent it."""
    found = intervals(observed(**WIRE), "duration")
    assert {key: found[key] for key in found if key[1] in {"first SYN at", FIRST, SECOND}} == {
        (AT_CLIENT, "first SYN at"): (0, 13),
        (AT_SERVER, "first SYN at"): (24, 100),
        (AT_CLIENT, FIRST): (500, 508),
        (AT_SERVER, FIRST): (519, 600),
        (AT_CLIENT, SECOND): (719 - 13, 10_000),
        (AT_SERVER, SECOND): (700 - 100, 708 - 24),
    }


def test_times_by_the_taps():
    """Each segment passes right before or right after its tap."""
    found = intervals(observed(**TAPS), "duration")
    assert {key: found[key] for key in found if key[1] in {"first SYN at", ANSWER, FIRST}} == {
        (AT_CLIENT, "first SYN at"): (0, 13),
        (AT_SERVER, "first SYN at"): (27, 43),
        (AT_CLIENT, ANSWER): (57 - 13, 73),
        (AT_SERVER, ANSWER): (0, 43 - 27),
        (AT_CLIENT, FIRST): (500, 508),
        (AT_SERVER, FIRST): (522, 533),
    }


def test_a_refused_connection():
    """It has no SYN-ACK, and its RST is its end."""
    assert wrong(refused(), "duration") == set()
    accepted = changed(refused(), "duration", 2, flags=SYN | ACK)
    assert wrong(accepted, "duration") == {"ended by", "closed first by", ANSWER, FIRST, LIFE}


@pytest.mark.parametrize("port", [0, FLOW.lport])
def test_a_refused_connection_may_not_know_its_port(port):
    """It is found by its server and its start; one that starts at another time is still its own, with a wrong start."""
    whole = refused()
    whole.connections[0].client.flow = Flow("0.0.0.0", port, FLOW.raddr, FLOW.rport)  # noqa: S104 (not known)
    assert wrong(whole, "duration") == set()
    late = whole.recording.events["duration"].copy()
    late["time_ns"] += 200
    assert wrong(with_events(whole, "duration", late), "duration") == {"first SYN at", FIRST}


def test_refused_connections_that_overlap():
    """Without ports, a row is that of the connection that contains its end as well: both contain its start."""
    whole, events = refused(), refused().recording.events["duration"]
    slow, quick = (np.sort(events, order="time_ns") for _ in range(2))
    slow["time_ns"][slow["flags"] & RST > 0] += 200
    quick["time_ns"] += 5
    quick["sport"][quick["sport"] == FLOW.lport] += 1
    quick["dport"][quick["dport"] == FLOW.lport] += 1
    calls = [[Call("connect", 0, 300, 0, "ECONNREFUSED")], [Call("connect", 10, 100, 0, "ECONNREFUSED")]]
    unknown = Flow("0.0.0.0", 0, FLOW.raddr, FLOW.rport)  # noqa: S104 (not known)
    timeline = whole.connections[0].client
    whole.connections = [
        replace(whole.connections[0], client=replace(timeline, flow=unknown, calls=its)) for its in calls
    ]
    assert wrong(with_events(whole, "duration", np.concatenate([slow, quick])), "duration") == set()
    assert wrong(with_events(whole, "duration", np.concatenate([slow, slow])), "duration") != set()


def test_interfaces_of_other_hosts_are_not_judged():
    """A router has interfaces, too."""
    whole = observed()
    devices = DEVICES | {9: ("router", 33)}
    assert wrong(replace(whole, recording=replace(whole.recording, devices=devices)), "duration") == set()
    assert {inode for _, inode in DEVICES.values()} > {CLIENT}
