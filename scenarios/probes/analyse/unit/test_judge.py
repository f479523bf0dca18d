"""The judge of the probe `analyse`: it calls each wrong number wrong, and none of the right ones."""

import numpy as np
import pytest
from support.made.analyse import change, step, steps
from support.made.observed import (
    CLIENT,
    PID_OF_CLIENT,
    SERVER,
    SYN_ACK_AGAIN,
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

from lab.packet import ACK, FIN, PSH, SYN
from lab.probes.analyse.measure import Kind, points
from lab.tcp import State
from lab.timeline import Call

THERE, BACK = str(FLOW), str(FLOW.reversed())
ALONE = "system calls without their entry"
STRANGE, OTHER_FLAGS = "segments processed that never arrived", "segments processed with other flags"


def number_of(kind, netns=CLIENT, nth=0, *, returns=0, length=None):
    """Return the number of a step."""
    rows = observed().recording.events["analyse"]
    chosen = (rows["kind"] == kind) & (rows["netns"] == netns) & (rows["returns"] == returns)
    if length is not None:
        chosen &= rows["length"] == length
    return int(np.flatnonzero(chosen)[nth])


CONNECTED, ACCEPTED = number_of(Kind.CONNECT, returns=1), number_of(Kind.ACCEPT, SERVER, returns=1)
SENDS, SENT, HAS_SENT = number_of(Kind.SEND), number_of(Kind.SENT), number_of(Kind.SEND, returns=1)
TOOK, RETURNED = number_of(Kind.RECEIVED), number_of(Kind.RECEIVE, returns=1)
TOOK_REQUEST, TOOK_END = number_of(Kind.RECEIVED, SERVER), number_of(Kind.RECEIVED, SERVER, 1)
ASKS, CLOSES, CLOSED = number_of(Kind.RECEIVE), number_of(Kind.CLOSE), number_of(Kind.CLOSE, returns=1)
OPENS, ESTABLISHED, ENDS, WAITS = number_of(Kind.OPENED), *(number_of(Kind.CHANGED, nth=nth) for nth in range(3))
BORN, CHILD, HEARS = (number_of(Kind.CHANGED, SERVER, nth) for nth in range(3))
REPLY, REQUEST = number_of(Kind.ARRIVED, length=300), number_of(Kind.ARRIVED, SERVER, length=300)
PROCESSED, PROCESSED_ACK = number_of(Kind.PROCESSED, length=300), number_of(Kind.PROCESSED, SERVER, length=0)


@whatever_is_known
def test_what_is_true(packets, known):
    """A true recording has no wrong number, whatever else is known."""
    assert wrong(observed(packets, **known), "analyse") == set()


@pytest.mark.parametrize("known", [{}, WIRE])
@pytest.mark.parametrize(
    ("number", "fields", "quantities"),
    [
        (HAS_SENT, {"tgid": 9}, {"owner", "processes that are not the applications"}),
        (HAS_SENT, {"comm": b"other"}, {"owner"}),
        (HAS_SENT, {"lport": 1}, {"addresses and ports"}),
        (HAS_SENT, {"netns": 99}, {"network namespace"}),
        (HAS_SENT, {"raddr": 1}, {"addresses and ports"}),
        (HAS_SENT, {"result": 299}, {"result of send() 2"}),
        (HAS_SENT, {"result": -11}, {"result of send() 2"}),
        (CONNECTED, {"result": -111}, {"result of connect() 1"}),
        (CLOSED, {"result": -9}, {"result of close() 4"}),
        (CONNECTED, {"time_ns": 101}, {"connect() 1 returned at"}),
        (ACCEPTED, {"time_ns": 131}, {"accept() 1 returned at"}),
        (HAS_SENT, {"time_ns": 211}, {"send() 2 returned at"}),
        (HAS_SENT, {"enter_ns": 199}, {"send() 2 entered at", ALONE}),
        (CONNECTED, {"enter_ns": 3}, {ALONE}),
        (SENDS, {"tid": 1}, {ALONE}),
        (ASKS, {"time_ns": 221}, {ALONE}),
        (SENT, {"time_ns": 202}, {"wait in send() 2"}),
        (SENT, {"time_ns": 200}, {"times TCP was at work in send() 2"}),
        (SENT, {"tid": 1}, {"times TCP was at work in send() 2"}),
        (SENT, {"enter_ns": 199}, {"TCP entered in send() 2 at"}),
        (SENT, {"result": 1}, {"result of TCP in send() 2"}),
        (TOOK, {"time_ns": 299}, {"TCP done in recv() 3 at", "wait in recv() 3"}),
        (TOOK, {"enter_ns": 219}, {"TCP entered in recv() 3 at"}),
        (TOOK_REQUEST, {"time_ns": 199}, {"TCP done in recv() 2 at", "wait in recv() 2"}),
        (TOOK_END, {"time_ns": 499}, {"TCP done in recv() 4 at", "wait in recv() 4"}),
        (RETURNED, {"kind": Kind.SEND}, {"system calls", ALONE}),
        (OPENS, {"state": State.SYN_RECV}, {"state sequence", "state left for ESTABLISHED"}),
        (ESTABLISHED, {"time_ns": 101}, {"ESTABLISHED entered at"}),
        (ENDS, {"time_ns": 511}, {"FIN_WAIT1 entered at"}),
        (ENDS, {"oldstate": State.SYN_RECV}, {"state left for FIN_WAIT1"}),
        (HEARS, {"time_ns": 499}, {"CLOSE_WAIT entered at"}),
        (CHILD, {"handshake_us": 2}, {"connect time"}),
        (REPLY, {"length": 299}, {"bytes that reached TCP"}),
        (REPLY, {"length": 301}, {"bytes that reached TCP"}),
        (REPLY, {"time_ns": 299}, {"first data reached TCP at"}),
        (REPLY, {"time_ns": 401}, {"first data reached TCP at"}),
        (REQUEST, {"time_ns": 199}, {"first data reached TCP at"}),
        (REQUEST, {"time_ns": 251}, {"first data reached TCP at"}),
        (PROCESSED, {"seq": 7}, {STRANGE}),
        (PROCESSED, {"flags": FIN}, {OTHER_FLAGS}),
        (PROCESSED, {"flags": ACK}, {OTHER_FLAGS}),
        (PROCESSED, {"flags": PSH | ACK | FIN}, {OTHER_FLAGS}),
        (PROCESSED_ACK, {"flags": SYN}, {OTHER_FLAGS}),
        (PROCESSED_ACK, {"flags": 0}, {OTHER_FLAGS}),
        (PROCESSED_ACK, {"flags": FIN | ACK}, set()),  # it may have taken up the FIN that follows
    ],
)
def test_one_wrong_number(number, fields, quantities, known):
    """It contradicts the calls of the applications, or another step."""
    assert wrong(changed(observed(**known), "analyse", number, **fields), "analyse") == quantities


@pytest.mark.parametrize(
    ("number", "quantities"),
    [
        (SENDS, {ALONE}),
        (CLOSES, {ALONE}),
        (HAS_SENT, {"system calls"}),
        (SENT, {"times TCP was at work in send() 2"}),
        (WAITS, {"state sequence"}),
        (REPLY, {"bytes that reached TCP"}),
    ],
)
def test_one_step_that_was_missed(number, quantities):
    """Each call has an entry, a return, and work of TCP; each state has a step, and each byte has arrived."""
    assert wrong(without(observed(), "analyse", number), "analyse") == quantities


@pytest.mark.parametrize("netns", [CLIENT, SERVER])
def test_a_socket_that_was_not_seen(netns):
    """Its application had one."""
    rows = observed().recording.events["analyse"]
    assert wrong(with_events(observed(), "analyse", rows[rows["netns"] != netns]), "analyse") == {"socket"}


def test_sockets_of_other_hosts_are_not_judged():
    """Only those of the two hosts count."""
    rows = observed().recording.events["analyse"]
    others = rows.copy()
    others["netns"], others["skaddr"] = 9, others["skaddr"] + 1
    more = np.concatenate([rows, others])
    more = more[np.argsort(more["time_ns"], kind="stable")]
    assert wrong(with_events(observed(), "analyse", more), "analyse") == set()


def test_times_by_the_calls():
    """TCP works inside the calls, and takes data after the peer began to send it."""
    found = intervals(observed(), "analyse")
    assert found[THERE, "TCP done in recv() 3 at"] == (300, 400)
    assert found[THERE, "TCP entered in recv() 3 at"] == (220, 400)
    assert found[THERE, "wait in recv() 3"] == (300 - 225, 400 - 225)
    assert found[BACK, "TCP done in recv() 2 at"] == (200, 250)
    assert found[BACK, "TCP done in recv() 4 at"] == (500, 600)
    assert found[THERE, "connect time"] == (0, 100)
    assert found[BACK, "connect time"] == (0, 130)
    assert found[THERE, "first data reached TCP at"] == (300, 400)
    assert found[BACK, "first data reached TCP at"] == (200, 250)
    assert intervals(observed(**WIRE), "analyse")[THERE, "connect time"] == (41, 100)


def test_what_a_tap_adds():
    """The first data reached TCP after the tap had seen it, and before it was acknowledged."""
    found = intervals(observed(**TAPS), "analyse")
    assert found[THERE, "first data reached TCP at"] == (327, 338)
    assert found[BACK, "first data reached TCP at"] == (222, 233)


def test_a_handshake_without_a_sample():
    """The kernel takes none of a SYN-ACK that it sent again: a time there is made up, and none is needed."""
    assert wrong(observed(SYN_ACK_AGAIN, **WIRE), "analyse") == {"connect time"}
    assert wrong(changed(observed(SYN_ACK_AGAIN, **WIRE), "analyse", CHILD, handshake_us=0), "analyse") == set()
    assert wrong(changed(observed(), "analyse", CHILD, handshake_us=0), "analyse") == set()


def test_the_work_of_tcp_is_judged_where_it_is_seen():
    """Kernels before 6.3 have no tracepoint for it."""
    whole = without(observed(), "analyse", SENT)
    whole.recording.attach_points["analyse"] = ["tracepoint:sys_enter_sendto", "tracepoint:sys_exit_sendto"]
    assert wrong(whole, "analyse") == set()
    assert {check.attach_point for check in checks(whole, "analyse")} == {
        "tracepoint:sys_enter_*, tracepoint:sys_exit_*"
    }


@pytest.mark.parametrize(("taken", "quantities"), [(SENT, set()), (None, {"bytes that TCP took in send() 2"})])
@pytest.mark.parametrize("call", ["sendfile", "sendmmsg"])
def test_a_call_with_several_pieces_of_work(taken, quantities, call):
    """Together they take all bytes of the call."""
    rows = observed().recording.events["analyse"].copy()
    rows["point"][HAS_SENT] = points().index(call)
    rows["result"][SENT] = 200 if taken else 199
    second = rows[SENT].copy()
    second["result"], second["enter_ns"] = 100, second["enter_ns"] + 1
    if call == "sendmmsg":
        rows["result"][HAS_SENT] = 2  # messages
    more = np.insert(rows, SENT + 1, second)
    assert wrong(with_events(observed(), "analyse", more), "analyse") == quantities


def test_a_peek_takes_no_data():
    """Its return is judged, and no work of TCP. The call that reads after it has all bytes."""
    whole = observed()
    rows = whole.recording.events["analyse"].copy()
    peeks, peeked = rows[ASKS].copy(), rows[RETURNED].copy()
    peeked["time_ns"], peeked["result"] = 345, 30
    rows["time_ns"][ASKS] = rows["enter_ns"][RETURNED] = 352
    rows["enter_ns"][TOOK] = 355
    calls = whole.connections[0].client.calls
    calls[2:3] = [Call("peek", 220, 349, 30), calls[2]._replace(enter_ns=350)]
    rows = np.append(rows, np.stack([peeks, peeked]))
    rows = rows[np.argsort(rows["time_ns"], kind="stable")]
    assert wrong(with_events(whole, "analyse", rows), "analyse") == set()
    assert intervals(with_events(whole, "analyse", rows), "analyse")[THERE, "first data reached TCP at"] == (300, 349)
    rows["result"][rows["time_ns"] == 345] = 31
    assert wrong(with_events(whole, "analyse", rows), "analyse") == {"result of peek() 3"}


@pytest.mark.parametrize(
    ("error", "quantities"), [("EAGAIN", set()), ("EPERM", {"result of recv() 3", "result of TCP in recv() 3"})]
)
def test_a_call_that_fails(error, quantities):
    """It has the application's error. One that finds no data need not wait for the peer."""
    whole = observed()
    rows = whole.recording.events["analyse"]
    failed = [rows[ASKS].copy(), rows[TOOK].copy(), rows[RETURNED].copy()]
    for row, time_ns in zip(failed, (212, 216, 218), strict=True):
        row["time_ns"] = time_ns
    failed[1]["enter_ns"], failed[2]["enter_ns"] = 214, 212
    failed[1]["result"] = failed[2]["result"] = -11
    whole.connections[0].client.calls.insert(2, Call("recv", 211, 219, 0, error))
    found = wrong(with_events(whole, "analyse", np.insert(rows, [ASKS] * 3, failed)), "analyse")
    assert found & {"result of recv() 3", "result of TCP in recv() 3"} == quantities
    assert error != "EAGAIN" or not found


def test_data_that_came_before_the_socket():
    """The first data can bring the last acknowledgement of the handshake: it arrives at the listener."""
    whole = observed()
    rows = whole.recording.events["analyse"].copy()
    early = rows[REQUEST]
    early["state"], early["skaddr"], early["time_ns"] = State.LISTEN, 0, 91
    whole.connections[0].client.calls[1] = whole.connections[0].client.calls[1]._replace(enter_ns=80)
    rows["time_ns"][[SENDS, SENT, HAS_SENT]] = 81, 83, 84
    rows["enter_ns"][[SENT, HAS_SENT]] = 82, 81
    rows = rows[np.argsort(rows["time_ns"], kind="stable")]
    assert "bytes that reached TCP" not in wrong(with_events(whole, "analyse", rows), "analyse")
    rows["length"][rows["time_ns"] == 91] = 299
    assert "bytes that reached TCP" in wrong(with_events(whole, "analyse", rows), "analyse")


def test_a_refused_connection():
    """It was never in ESTABLISHED, and has no connect time. The application may not know its address."""
    whole = refused()
    mine = {"tgid": PID_OF_CLIENT, "tid": PID_OF_CLIENT, "comm": "client"}
    rows = steps(
        step(2, Kind.CONNECT, FLOW, state="CLOSE", **mine),
        change(5, "CLOSE -> SYN_SENT", FLOW),
        change(62, "SYN_SENT -> CLOSE", FLOW),
        step(98, Kind.CONNECT, FLOW, state="CLOSE", enter_ns=2, returns=1, result=-111, **mine),
        step(121, Kind.CLOSE, FLOW, state="CLOSE", **mine),
        step(125, Kind.DESTROYED, FLOW, state="CLOSE"),
        step(129, Kind.CLOSE, FLOW, state="CLOSE", enter_ns=121, returns=1, **mine),
    )
    assert wrong(with_events(whole, "analyse", rows), "analyse") == set()
    assert not {check.quantity for check in checks(with_events(whole, "analyse", rows), "analyse")} & {
        "connect time",
        "bytes that reached TCP",
    }
    rows["result"][rows["time_ns"] == 98] = -110
    assert wrong(with_events(whole, "analyse", rows), "analyse") == {"result of connect() 1"}
    whole.connections[0].client.flow = FLOW._replace(laddr="0.0.0.0")  # noqa: S104 (not known)
    rows["result"][rows["time_ns"] == 98] = -111
    assert wrong(with_events(whole, "analyse", rows), "analyse") == set()
