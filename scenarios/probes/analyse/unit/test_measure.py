"""Join the steps of connections, in one array and batch by batch, from arrays written by hand."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.made.analyse import UNBOUND, change, client, step, steps
from support.made.states import CLIENT, SERVER

from lab.arrays import UNKNOWN
from lab.choice import Choice
from lab.paths import SOURCES
from lab.probes.analyse.measure import Kind, Role, Takes, joined, kept, latency_ns, points, stillborn
from lab.probes.analyse.tracker import Tracker
from lab.tcp import Flow, State, address_text
from lab.units import SECOND


def flows(rows):
    """Return the local and the remote end of each row, as text."""
    names = (("laddr", "lport"), ("raddr", "rport"))
    return {tuple(f"{address_text(row[a].tobytes())} {row[p]}" for a, p in names) for row in rows}


def test_kinds_are_those_of_the_program():
    """The enumerations of the program have the same members in the same order, and every attach point has a name."""
    source = (SOURCES / "analyse/event.h").read_text()
    for name, members in (("kind", Kind), ("takes", Takes)):
        (body,) = re.findall(rf"enum {name} \{{(.*?)\}};", source, re.DOTALL)
        assert re.findall(rf"\b{name.upper()}_(\w+)", body) == [member.name for member in members]
        assert [member.value for member in members] == list(range(len(members)))
    text = "".join(file.read_text() for file in [SOURCES / "analyse.c", *(SOURCES / "analyse").iterdir()])
    assert set(points()) == set(re.findall(r"\b(?:AT_|each\()(\w+)", text))


def test_all_steps_of_one_socket():
    """Every row has the owner, ends and role of the socket, also before the bind and after the end of the socket."""
    rows = joined(steps(*client()))
    assert len(set(rows["socket"])) == 1
    assert set(rows["tgid"]) == {7}
    assert set(rows["netns"]) == {1}
    assert set(rows["role"]) == {Role.CLIENT}
    assert flows(rows) == {("192.0.2.1 40000", "192.0.2.2 80")}


def test_connect_time():
    """The connect time runs from connect() to ESTABLISHED and is on all later rows; a latency is on its last row."""
    rows = joined(steps(*client()))
    assert rows["connect_ns"].tolist() == [UNKNOWN] * 3 + [40] * 7
    assert latency_ns(rows).tolist() == [UNKNOWN] * 3 + [40, 50] + [UNKNOWN] * 4 + [30]


def test_connecting_again_after_a_refusal():
    """A socket that connects again after a refusal has the connect time of the second attempt; the first has none."""
    first = [
        step(0, Kind.CONNECT, UNBOUND, state="CLOSE", owner=7),
        change(10, "CLOSE -> SYN_SENT"),
        change(20, "SYN_SENT -> CLOSE"),
        step(30, Kind.CONNECT, enter_ns=0, returns=1, result=-111, state="CLOSE", owner=7),
    ]
    rows = joined(steps(*first, *client(1000)[:4]))
    assert rows["connect_ns"].tolist() == [UNKNOWN] * 7 + [40]


def attempts(begin_ns=0, skaddr=0xE0):
    """Return the steps of a socket that is refused by one port, then connects to another with TCP_FASTOPEN_CONNECT."""
    call = {"owner": 7, "skaddr": skaddr}
    one, two = (Flow("0.0.0.0", 0, "192.0.2.1", port) for port in (81, 82))  # noqa: S104 (not bound yet)
    whole = Flow("192.0.2.1", 50001, "192.0.2.1", 82)
    late = {"returns": 1, **call}
    return [
        step(begin_ns + 10, Kind.CONNECT, one, state="CLOSE", **call),
        change(begin_ns + 20, "CLOSE -> SYN_SENT", one, skaddr),
        change(begin_ns + 30, "SYN_SENT -> CLOSE", Flow("192.0.2.1", 50000, "192.0.2.1", 81), skaddr),
        step(begin_ns + 40, Kind.CONNECT, one, enter_ns=begin_ns + 10, result=-111, state="CLOSE", **late),
        step(begin_ns + 50, Kind.CONNECT, two, state="CLOSE", **call),
        change(begin_ns + 60, "CLOSE -> SYN_SENT", two, skaddr),
        step(begin_ns + 70, Kind.CONNECT, whole, enter_ns=begin_ns + 50, state="SYN_SENT", **late),
        step(begin_ns + 170, Kind.SEND, whole, state="SYN_SENT", **call),
        step(begin_ns + 180, Kind.SEND, whole, enter_ns=begin_ns + 170, result=-115, state="SYN_SENT", **late),
        step(begin_ns + 190, Kind.SEND, whole, state="SYN_SENT", **call),
        change(begin_ns + 200, "SYN_SENT -> ESTABLISHED", whole, skaddr),
    ]


def test_attempts_of_one_socket():
    """S8, C1: each attempt has its own ends, and the connect time begins with the first send after a deferred open."""
    rows = joined(steps(*attempts()))
    assert len(set(rows["socket"])) == 1
    assert flows(rows[:4]) == {("192.0.2.1 50000", "192.0.2.1 81")}
    assert flows(rows[4:]) == {("192.0.2.1 50001", "192.0.2.1 82")}
    assert rows["connect_ns"].tolist() == [UNKNOWN] * 10 + [30]


def test_a_deferred_open_by_a_call_that_is_not_observed():
    """C1: if the send that carries the SYN is not observed, the connect time is unknown."""
    rows = joined(steps(*(row for row in attempts() if row["kind"] != Kind.SEND)))
    assert set(rows["connect_ns"]) == {UNKNOWN}


def test_an_open_by_a_call_that_is_not_observed():
    """C1: an open without an observed call has no connect time, also behind one that had a call."""
    before = [*attempts(), change(300, "ESTABLISHED -> CLOSE", skaddr=0xE0)]
    after = [change(400, "CLOSE -> SYN_SENT", skaddr=0xE0), change(500, "SYN_SENT -> ESTABLISHED", skaddr=0xE0)]
    assert joined(steps(*before, *after))["connect_ns"].tolist()[-2:] == [UNKNOWN, UNKNOWN]


def test_a_connection_without_its_connect_call():
    """L4: without the call, connect time, role and owner stay unknown unless other steps show them."""
    rows = joined(steps(*client()[1:4]))
    assert set(rows["connect_ns"]) == {UNKNOWN}
    assert set(rows["role"]) == {Role.CLIENT}
    rows = joined(steps(step(5, Kind.ARRIVED, state="ESTABLISHED")))
    assert rows["role"].tolist() == [Role.UNKNOWN]
    assert rows["tgid"].tolist() == [0]


def test_reused_kernel_addresses():
    """S5: two sockets at one address are separate, though the close() of the first returns after the second begins."""
    one, two = client(100, owner=7), client(292, owner=8)
    rows = joined(steps(*one, *two))
    assert len(set(rows["socket"])) == 2
    assert sorted(rows["tgid"].tolist()) == [7] * 10 + [8] * 10
    for socket in set(rows["socket"]):
        assert len(set(rows["tgid"][rows["socket"] == socket])) == 1


def test_processing_that_returns_after_the_socket_was_destroyed():
    """S5: the kernel destroys a socket while it processes the last ACK; the next step at the address is another's."""
    gone = step(293, Kind.PROCESSED, enter_ns=285, oldstate="LAST_ACK", state="CLOSE")
    again = CLIENT._replace(lport=40001)
    rows = joined(steps(*client(100)[:-1], gone, change(300, "CLOSE -> SYN_SENT", again)))
    assert rows["socket"].tolist() == [rows["socket"][0]] * 10 + [rows["socket"][-1]]
    assert flows(rows[-1:]) == {("192.0.2.1 40001", "192.0.2.2 80")}


def test_backlog_of_a_destroyed_socket():
    """S5: packets from the backlog of a destroyed socket belong to it, not to the next socket at the address."""
    waited = [
        step(295 + 10 * number, Kind.PROCESSED, enter_ns=292 + 10 * number, oldstate="CLOSE", state="CLOSE")
        for number in range(2)
    ]
    rows = joined(steps(*client(100, 7), *waited, *client(1000, 8)))
    late = np.isin(rows["time_ns"], (295, 305))
    assert len(set(rows["socket"])) == 2
    assert [set(rows["begun_ns"][rows["tgid"] == tgid]) for tgid in (7, 8)] == [{100}, {1000}]
    assert rows["tgid"][late].tolist() == [7, 7]
    alone = joined(steps(waited[1], *client(1000, 8)))
    assert set(alone["begun_ns"][alone["tgid"] == 8]) == {1000}


def service(begin_ns=0):
    """Return the steps of a listener, its connection, and an accept() that was blocked from the start."""
    listener = SERVER._replace(raddr=UNBOUND.raddr, rport=0)
    return [
        step(begin_ns, Kind.ACCEPT, listener, 0xB0, state="LISTEN", owner=9),
        step(begin_ns + 10, Kind.ARRIVED, SERVER, 0xB0, state="LISTEN"),
        change(begin_ns + 20, "LISTEN -> SYN_RECV", SERVER._replace(rport=0), 0xC0),
        change(begin_ns + 30, "SYN_RECV -> ESTABLISHED", SERVER, 0xC0, handshake_us=3),
        step(begin_ns + 40, Kind.ARRIVED, SERVER, 0xC0, state="ESTABLISHED"),
        step(begin_ns + 50, Kind.ACCEPT, SERVER, 0xC0, enter_ns=begin_ns, returns=1, result=5, listener=0xB0, owner=9),
    ]


def test_a_service():
    """Steps of a connection before accept() have the owner that accepts it; the listener has no remote end."""
    rows = joined(steps(*service()))
    assert set(rows["role"]) == {Role.SERVICE}
    assert set(rows["tgid"]) == {9}
    child = rows[rows["skaddr"] == 0xC0]
    assert flows(child) == {("192.0.2.2 80", "192.0.2.1 40000")}
    assert child["connect_ns"].tolist() == [UNKNOWN, 3000, 3000, 3000]
    entered = rows[(rows["skaddr"] == 0xB0) & (rows["kind"] == Kind.ACCEPT)]
    assert entered["rport"].tolist() == [0]


def test_a_socket_handed_to_another_process():
    """Steps in softirq have the owner that made the last call on the socket."""
    rows = joined(
        steps(
            step(10, Kind.SEND, owner=7), step(20, Kind.ARRIVED), step(30, Kind.SEND, owner=8), step(40, Kind.ARRIVED)
        )
    )
    assert rows["tgid"].tolist() == [7, 7, 8, 8]


def mptcp(begin_ns, owner, address=0xC00, subflow=0xC80):
    """Return the steps of a client's MPTCP socket and of its subflow, which the kernel works on alone."""
    life = client(begin_ns, owner, skaddr=address)
    return [
        *(row for row in life if row["kind"] not in (Kind.ARRIVED, Kind.DESTROYED)),
        change(begin_ns + 12, "CLOSE -> SYN_SENT", CLIENT, subflow, mptcp=address),
        step(begin_ns + 30, Kind.ARRIVED, skaddr=subflow, state="SYN_SENT"),
        change(begin_ns + 35, "SYN_SENT -> ESTABLISHED", CLIENT, subflow, mptcp=address),
        step(begin_ns + 202, Kind.DESTROYED, skaddr=subflow, state="CLOSE"),
    ]


def test_owners_of_subflows():
    """Q11: the steps of a subflow have the owner of the MPTCP socket that had the address then."""
    events = []
    for begin_ns, owner in ((100, 7), (400, 8)):
        for row in mptcp(begin_ns, owner):
            if row["skaddr"] == 0xC00:
                row["mptcp"] = 0xC00
            events.append(row)
    rows = joined(steps(*events))
    assert [set(rows["tgid"][rows["time_ns"] < 350]), set(rows["tgid"][rows["time_ns"] > 350])] == [{7}, {8}]
    assert set(rows["mptcp"]) == {0xC00}
    assert len(set(rows["socket"])) == 4
    assert len(kept(rows, 1000)) == 0
    for cut in range(len(events)):
        tracker = Tracker(Role.CLIENT)
        shown = np.concatenate([tracker.rows(batch) for batch in np.split(steps(*events), [cut])])
        assert all(value in {0, true} for value, true in zip(shown["tgid"], rows["tgid"], strict=True))


def handed_over():
    """Return the steps of a socket that process 7 closes while others hold it: process 8 goes on, then nobody is known."""
    return steps(
        step(10, Kind.SEND, owner=7),
        step(20, Kind.ARRIVED),
        step(30, Kind.SEND, owner=8),
        step(40, Kind.CLOSE, owner=7),
        step(50, Kind.CLOSE, enter_ns=40, returns=1, held=1, owner=7),
        step(60, Kind.ARRIVED),
        step(70, Kind.CLOSE, owner=8),
        step(80, Kind.CLOSE, enter_ns=70, returns=1, held=1, owner=8),
        step(90, Kind.ARRIVED),
        step(100, Kind.SEND, owner=9),
        step(110, Kind.ARRIVED),
        step(120, Kind.RECEIVE),  # by a process of another PID namespace
        step(130, Kind.ARRIVED),
    )


def test_owners_that_leave_a_socket():
    """S13: after a process has left a socket to others, steps have the owner that remains, or none."""
    events, owners = handed_over(), [7, 7, 8, 7, 7, 8, 8, 8, 0, 9, 9, 0, 0]
    assert joined(events)["tgid"].tolist() == owners
    for cut in range(len(events)):
        tracker = Tracker(Role.CLIENT)
        shown = np.concatenate([tracker.rows(batch) for batch in np.split(events, [cut])])
        assert all(value in {0, true} for value, true in zip(shown["tgid"], owners, strict=True))


def test_packets_without_a_socket():
    """A1: a packet without a socket gets the socket of its flow, and the state that this socket entered last."""
    lone = [step(time_ns, Kind.ARRIVED, skaddr=0) for time_ns in (125, 205)]
    rows = joined(steps(*client()[:6], *lone))
    packets = rows[np.isin(rows["time_ns"], (125, 205))]
    assert packets["skaddr"].tolist() == [0xA0, 0xA0]
    assert [State(state).name for state in packets["state"]] == ["SYN_SENT", "ESTABLISHED"]
    assert set(packets["tgid"]) == {7}
    stranger = joined(steps(*client()[:6], step(120, Kind.ARRIVED, CLIENT._replace(lport=1), 0)))
    assert stranger["skaddr"].tolist().count(0) == 1


def test_packets_that_create_a_socket():
    """A1: a SYN without a socket and the ACK of a request belong to the service."""
    syn, ack = step(8, Kind.ARRIVED, SERVER, 0), step(15, Kind.ARRIVED, SERVER, 0xD0, state="NEW_SYN_RECV")
    rows = joined(steps(syn, ack, *(it for it in service() if it["time_ns"] != 10)))
    packets = rows[np.isin(rows["time_ns"], (8, 15))]
    assert packets["skaddr"].tolist() == [0xC0, 0xC0]
    assert set(packets["socket"]) == set(rows["socket"][rows["skaddr"] == 0xC0])
    assert [State(state).name for state in packets["state"]] == ["LISTEN", "LISTEN"]
    assert (set(packets["role"]), set(packets["tgid"])) == ({Role.SERVICE}, {9})
    unanswered = joined(steps(ack))
    assert (unanswered["skaddr"].tolist(), unanswered["state"].tolist()) == ([0], [0])


def test_packets_that_a_minisock_takes():
    """S2: a FIN in TIME_WAIT belongs to the socket if shutdown() kept it open; after close() it is unowned."""
    open_ = [
        *client()[:6],
        change(250, "FIN_WAIT2 -> TIME_WAIT"),
        step(260, Kind.ARRIVED, skaddr=0xF0, state="TIME_WAIT"),
    ]
    packet = joined(steps(*open_))[-1]
    assert (packet["skaddr"], State(packet["state"]).name, packet["tgid"]) == (0xA0, "TIME_WAIT", 7)
    closed = joined(steps(*client(), step(400, Kind.ARRIVED, skaddr=0xF0, state="TIME_WAIT")))
    assert (closed[-1]["skaddr"], State(closed[-1]["state"]).name, closed[-1]["tgid"]) == (0, "TIME_WAIT", 0)
    assert len(kept(closed, 1000)) == 0


def test_a_step_that_both_programs_report():
    """A step that the second program repeats is dropped; a step that it reports alone is kept."""
    once = client()
    again = change(141, "SYN_SENT -> ESTABLISHED", again=1)
    assert len(joined(steps(*once, again))) == len(once)
    once[3]["again"] = 1
    assert len(joined(steps(*once))) == len(once)


def test_other_steps_between_a_step_and_its_repetition():
    """A repetition is dropped although the next segment of the socket comes before it."""
    segment = {"state": "ESTABLISHED", "skb": 0xB0, "seq": 1, "length": 9}
    once = [*client(), step(201, Kind.PROCESSED, **segment), step(202, Kind.ARRIVED, state="ESTABLISHED", seq=10)]
    assert len(joined(steps(*once, step(203, Kind.PROCESSED, again=1, **segment)))) == len(once)
    assert len(joined(steps(*once, step(203, Kind.PROCESSED, again=1, **segment | {"seq": 10})))) == len(once) + 1


@pytest.mark.parametrize("length", [0, 1])
def test_a_segment_is_reported_once(length):
    """A segment that both programs report is one event; an equal segment that arrives later is another."""
    segment = {"state": "ESTABLISHED", "skb": 0xB0, "seq": 1, "length": length}
    arrived, processed = step(201, Kind.ARRIVED, **segment), step(202, Kind.PROCESSED, **segment)
    once = [*client(), arrived, processed]
    repeated = [step(203, Kind.ARRIVED, skaddr=0xE0, skb=0xB1), step(204, Kind.PROCESSED, again=1, **segment)]
    assert len(joined(steps(*once, *repeated))) == len(once) + 1
    alike = [step(205, Kind.ARRIVED, **segment), step(206, Kind.PROCESSED, again=1, **segment)]
    assert len(joined(steps(*once, *alike))) == len(once) + 2


def test_an_end_that_only_the_second_program_reports():
    """Equal ends of three sockets at one address are three events; a repeated end is one."""
    lives = [client(start, owner) for start, owner in ((100, 7), (1100, 8), (2100, 9))]
    for life in lives:
        assert life[-2]["kind"] == Kind.DESTROYED
        life[-2]["again"] = 1
    rows = joined(steps(*(row for life in lives for row in life)))
    assert len(rows) == sum(map(len, lives))
    assert [set(rows["tgid"][rows["socket"] == socket]) for socket in np.unique(rows["socket"])] == [{7}, {8}, {9}]
    repeated = lives[0][-2].copy()
    repeated["time_ns"] += 1
    assert len(joined(steps(*lives[0], repeated))) == len(lives[0])


def test_a_stillborn_child_gets_no_packets():
    """If two processors create a child for one request, the packets of the flow belong to the child that lives."""
    late = [
        change(33, "LISTEN -> SYN_RECV", SERVER._replace(rport=0), 0xC8),
        change(35, "SYN_RECV -> CLOSE", SERVER, 0xC8),
        step(37, Kind.DESTROYED, SERVER, 0xC8, state="CLOSE"),
    ]
    alone = [step(time_ns, Kind.ARRIVED, SERVER, 0, length=5, seq=time_ns) for time_ns in (34, 36, 38)]
    found = joined(steps(*service(), *late, *alone))
    assert found["skaddr"][found["seq"] > 0].tolist() == [0xC0] * 3
    assert found["state"][found["seq"] > 0].tolist() == [State.ESTABLISHED] * 3
    assert found["skaddr"][stillborn(found)].tolist() == [0xC8] * 3
    assert 0xC8 not in kept(found, 0)["skaddr"]


def test_after_a_loss_nothing_is_joined():
    """L2: steps before and after lost events are not taken for those of one socket."""
    rows = client()
    for row in rows[5:]:
        row["lost"] = 1
    assert len(set(joined(steps(*rows))["socket"])) > 1


@settings(deadline=None, max_examples=50)  # the time depends on the machine
@given(st.data())
def test_batches_make_no_difference(data):
    """Any division into batches shows the same rows with the same owners, ends and connect times."""
    alone = [step(time_ns, Kind.ARRIVED, skaddr=0) for time_ns in (620, 720)]
    late = step(710, Kind.PROCESSED, skaddr=0xD0, enter_ns=695, oldstate="CLOSE", state="CLOSE")
    again = client(1500, 9, skaddr=0xD0)
    more = [*client(500, 5, skaddr=0xD0), *alone, late, *again, *attempts(150)]
    events = steps(*client(100), *client(1000, 8), *service(150), *more)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=4)))
    whole = joined(events)
    for role in (Role.CLIENT, Role.SERVICE):
        tracker = Tracker(role)
        shown = np.concatenate([tracker.rows(batch) for batch in np.split(events, cuts)])
        expected = whole[np.isin(whole["role"], (role, Role.UNKNOWN))]
        for name in ("time_ns", "kind", "skaddr", "netns", "connect_ns"):
            assert shown[name].tolist() == expected[name].tolist()
        # A value may still be unknown when the row is shown. It is never wrong.
        for name in ("tgid", "lport", "rport"):
            assert all(value in {0, true} for value, true in zip(shown[name], expected[name], strict=True))


@settings(deadline=None, max_examples=50)  # the time depends on the machine
@given(st.data())
def test_a_filter_loses_no_row_in_any_batch(data):
    """S4: rows with an unknown owner or port wait for it: a filter by process or port shows every row once."""
    events = steps(*client(100), *client(1000, 8), *service(150), *client(500, 7, skaddr=0xD0))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=4)))
    by_port = {port: {"choice": Choice(local_ports=[port])} for port in (40000, 1)}
    for how, count in (({"tgids": [7]}, 20), ({"tgids": [8, 9]}, 10), (by_port[40000], 30), (by_port[1], 0)):
        tracker = Tracker(Role.CLIENT, **how)
        shown = np.concatenate([tracker.rows(batch) for batch in np.split(events, cuts)])
        assert len(shown) == count
        assert tracker.end() == ""
    tracker = Tracker(Role.SERVICE, tgids=[9])
    assert sum(len(tracker.rows(batch)) for batch in np.split(events, cuts)) == 6


def test_minimum_latency_is_exact():
    """A2: a row is shown if its latency is at least the minimum, to the nanosecond."""
    events = steps(*client())
    for least_ns, kinds in (
        (50, [Kind.CONNECT]),
        (51, []),
        (40, [Kind.CHANGED, Kind.CONNECT]),
        (30, [Kind.CHANGED, Kind.CONNECT, Kind.CLOSE]),
    ):
        shown = Tracker(Role.CLIENT, least_ns=least_ns).rows(events)
        assert shown["kind"].tolist() == kinds


def test_destroyed_sockets_are_forgotten():
    """A second after a socket was destroyed, no row of it is kept, so memory does not grow."""
    tracker = Tracker(Role.CLIENT)
    for number in range(50):
        tracker.rows(steps(*client(number * SECOND * 3, skaddr=0xA00 + number)))
    assert len(tracker._known) <= 6  # noqa: SLF001 (there is no public view of the kept rows)


def test_waiting_rows_keep_one_row_of_their_socket():
    """A socket with waiting rows is kept once, however many batches of other sockets follow."""
    tracker = Tracker(Role.CLIENT, tgids=[7])
    tracker.rows(steps(step(100, Kind.ARRIVED, skaddr=0x1)))
    for number in range(20):
        tracker.rows(steps(step(200 + number, Kind.ARRIVED, CLIENT._replace(lport=2), 0x2)))
    assert len(tracker._known) == 2  # noqa: SLF001 (there is no public view of the kept rows)


def test_limits_are_reported(monkeypatch):
    """Beyond the limits of sockets and waiting rows the oldest are dropped, and the closing note counts them."""
    monkeypatch.setattr("lab.probes.analyse.tracker.MOST_OPEN", 3)
    monkeypatch.setattr("lab.probes.analyse.tracker.MOST_WAITING", 2)
    for how, note in (({}, "5 were forgotten"), ({"tgids": [7]}, "8 steps are not shown")):
        tracker = Tracker(Role.CLIENT, **how)
        for number in range(8):
            tracker.rows(steps(step(100 + number, Kind.ARRIVED, CLIENT._replace(lport=1 + number), 0x100 + number)))
        assert note in tracker.end()


def test_nothing():
    """Without events there are no rows."""
    assert len(joined(steps())) == 0
    assert len(kept(joined(steps()), 0)) == 0
    assert len(Tracker(Role.CLIENT).rows(steps())) == 0
