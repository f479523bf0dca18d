"""Joining the steps of connections, and following them batch by batch, from arrays made by hand."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.made.analyse import UNBOUND, change, client, step, steps
from support.made.states import CLIENT, SERVER

from lab.arrays import UNKNOWN
from lab.paths import SOURCES
from lab.probes.analyse.measure import Kind, Role, carried, joined, latency_ns, points, stillborn
from lab.probes.analyse.tracker import Tracker
from lab.tcp import State, address_text
from lab.units import SECOND


def flows(rows):
    """Each row's local and remote end, as text."""
    names = (("laddr", "lport"), ("raddr", "rport"))
    return {tuple(f"{address_text(row[a].tobytes())} {row[p]}" for a, p in names) for row in rows}


def test_kinds_are_those_of_the_program():
    """`Kind` and `enum kind` have the same members in the same order; every point of the program has a name."""
    source = (SOURCES / "analyse/event.h").read_text()
    (body,) = re.findall(r"enum kind \{(.*?)\};", source, re.DOTALL)
    assert re.findall(r"\bKIND_(\w+)", body) == [kind.name for kind in Kind]
    assert [kind.value for kind in Kind] == list(range(len(Kind)))
    text = "".join(file.read_text() for file in [SOURCES / "analyse.c", *(SOURCES / "analyse").iterdir()])
    assert set(points()) == set(re.findall(r"\b(?:AT_|each\()(\w+)", text))


def test_a_life_is_one_connection():
    """Every row has the socket's owner, ends and role: also the first, not bound yet, and the last, whose socket is gone."""
    rows = joined(steps(*client()))
    assert len(set(rows["socket"])) == 1
    assert set(rows["tgid"]) == {7}
    assert set(rows["netns"]) == {1}
    assert set(rows["role"]) == {Role.CLIENT}
    assert flows(rows) == {("192.0.2.1 40000", "192.0.2.2 80")}


def test_connect_time():
    """From connect() entered to ESTABLISHED, on every row from there on; a latency is that of what ends."""
    rows = joined(steps(*client()))
    assert rows["connect_ns"].tolist() == [UNKNOWN] * 3 + [40] * 7
    assert latency_ns(rows).tolist() == [UNKNOWN] * 3 + [40, 50] + [UNKNOWN] * 4 + [30]


def test_connecting_again_after_a_refusal():
    """A socket that was refused and connects once more has a connect time of its own, the refused attempt none."""
    first = [
        step(0, Kind.CONNECT, UNBOUND, state="CLOSE", owner=7),
        change(10, "CLOSE -> SYN_SENT"),
        change(20, "SYN_SENT -> CLOSE"),
        step(30, Kind.CONNECT, enter_ns=0, returns=1, result=-111, state="CLOSE", owner=7),
    ]
    rows = joined(steps(*first, *client(1000)[:4]))
    assert rows["connect_ns"].tolist() == [UNKNOWN] * 7 + [40]


def test_a_connection_whose_connect_was_not_seen():
    """L4: without the call there is no connect time, and nothing is made up."""
    rows = joined(steps(*client()[1:4]))
    assert set(rows["connect_ns"]) == {UNKNOWN}
    assert set(rows["role"]) == {Role.CLIENT}
    rows = joined(steps(step(5, Kind.ARRIVED, state="ESTABLISHED")))
    assert rows["role"].tolist() == [Role.UNKNOWN]
    assert rows["tgid"].tolist() == [0]


def test_addresses_are_used_again():
    """S5: two lives at one kernel address, of two processes; the close() of the first returns after the second has begun."""
    one, two = client(100, owner=7), client(292, owner=8)
    rows = joined(steps(*one, *two))
    assert len(set(rows["socket"])) == 2
    assert sorted(rows["tgid"].tolist()) == [7] * 10 + [8] * 10
    for socket in set(rows["socket"]):
        assert len(set(rows["tgid"][rows["socket"] == socket])) == 1


def test_processing_that_ends_when_its_socket_is_gone():
    """S5: the last ACK has the kernel destroy the socket while it is processed; what begins at this address next is another."""
    gone = step(293, Kind.PROCESSED, enter_ns=285, oldstate="LAST_ACK", state="CLOSE")
    again = CLIENT._replace(lport=40001)
    rows = joined(steps(*client(100)[:-1], gone, change(300, "CLOSE -> SYN_SENT", again)))
    assert rows["socket"].tolist() == [rows["socket"][0]] * 10 + [rows["socket"][-1]]
    assert flows(rows[-1:]) == {("192.0.2.1 40001", "192.0.2.2 80")}


def test_packets_that_had_waited_for_who_ended_the_socket():
    """S5: what was still to be processed when the kernel had destroyed the socket is the old one's, not the next one's there."""
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
    """Make a listener, its connection, and the accept() that was waiting all the while."""
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
    """What a listener's connection did before accept() belongs to who accepts it; the listener has no remote end of its own."""
    rows = joined(steps(*service()))
    assert set(rows["role"]) == {Role.SERVICE}
    assert set(rows["tgid"]) == {9}
    child = rows[rows["skaddr"] == 0xC0]
    assert flows(child) == {("192.0.2.2 80", "192.0.2.1 40000")}
    assert child["connect_ns"].tolist() == [UNKNOWN, 3000, 3000, 3000]
    entered = rows[(rows["skaddr"] == 0xB0) & (rows["kind"] == Kind.ACCEPT)]
    assert entered["rport"].tolist() == [0]


def test_a_socket_handed_to_another_process():
    """What softirqs do belongs to the process that made the last call on the socket."""
    rows = joined(
        steps(
            step(10, Kind.SEND, owner=7), step(20, Kind.ARRIVED), step(30, Kind.SEND, owner=8), step(40, Kind.ARRIVED)
        )
    )
    assert rows["tgid"].tolist() == [7, 7, 8, 8]


def test_packets_without_a_socket():
    """A1: where only the packet is known, its flow tells the socket, and what that had last entered tells the state."""
    lone = [step(time_ns, Kind.ARRIVED, skaddr=0) for time_ns in (125, 205)]
    rows = joined(steps(*client()[:6], *lone))
    packets = rows[np.isin(rows["time_ns"], (125, 205))]
    assert packets["skaddr"].tolist() == [0xA0, 0xA0]
    assert [State(state).name for state in packets["state"]] == ["SYN_SENT", "ESTABLISHED"]
    assert set(packets["tgid"]) == {7}
    stranger = joined(steps(*client()[:6], step(120, Kind.ARRIVED, CLIENT._replace(lport=1), 0)))
    assert stranger["skaddr"].tolist().count(0) == 1


def test_packets_that_make_a_socket():
    """A1: a SYN whose socket was not looked up, and the ACK of a request that is no socket yet, are the service's."""
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
    """S2: a FIN that comes to TIME_WAIT is the socket's that shutdown() has kept; of one that close() has left, nobody's."""
    kept = [
        *client()[:6],
        change(250, "FIN_WAIT2 -> TIME_WAIT"),
        step(260, Kind.ARRIVED, skaddr=0xF0, state="TIME_WAIT"),
    ]
    packet = joined(steps(*kept))[-1]
    assert (packet["skaddr"], State(packet["state"]).name, packet["tgid"]) == (0xA0, "TIME_WAIT", 7)
    left = joined(steps(*client(), step(400, Kind.ARRIVED, skaddr=0xF0, state="TIME_WAIT")))
    assert (left[-1]["skaddr"], State(left[-1]["state"]).name, left[-1]["tgid"]) == (0, "TIME_WAIT", 0)
    assert len(carried(left, 1000)) == 0


def test_a_step_that_both_programs_report():
    """The second program's repetition is dropped, and what it reports alone is kept."""
    once = client()
    again = change(141, "SYN_SENT -> ESTABLISHED", again=1)
    assert len(joined(steps(*once, again))) == len(once)
    once[3]["again"] = 1
    assert len(joined(steps(*once))) == len(once)


def test_other_steps_between_a_step_and_its_repetition():
    """The interrupt that makes the second program repeat a step brings the socket's next segment."""
    segment = {"state": "ESTABLISHED", "skb": 0xB0, "seq": 1, "length": 9}
    once = [*client(), step(201, Kind.PROCESSED, **segment), step(202, Kind.ARRIVED, state="ESTABLISHED", seq=10)]
    assert len(joined(steps(*once, step(203, Kind.PROCESSED, again=1, **segment)))) == len(once)
    assert len(joined(steps(*once, step(203, Kind.PROCESSED, again=1, **segment | {"seq": 10})))) == len(once) + 1


@pytest.mark.parametrize("length", [0, 1])
def test_a_segment_is_told_once(length):
    """What both functions of the probe have reported is one event; a segment that looks alike has arrived by itself."""
    segment = {"state": "ESTABLISHED", "skb": 0xB0, "seq": 1, "length": length}
    arrived, processed = step(201, Kind.ARRIVED, **segment), step(202, Kind.PROCESSED, **segment)
    told = [*client(), arrived, processed]
    repeated = [step(203, Kind.ARRIVED, skaddr=0xE0, skb=0xB1), step(204, Kind.PROCESSED, again=1, **segment)]
    assert len(joined(steps(*told, *repeated))) == len(told) + 1
    alike = [step(205, Kind.ARRIVED, **segment), step(206, Kind.PROCESSED, again=1, **segment)]
    assert len(joined(steps(*told, *alike))) == len(told) + 2


def test_an_end_told_by_the_second_function_only():
    """The same end of the socket that had the address before is another event, and the next socket is a third."""
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


def test_a_child_that_came_too_late_takes_nothing():
    """Of one request two processors make a child each: the packets of the flow belong to the one that lives."""
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
    assert 0xC8 not in carried(found, 0)["skaddr"]


def test_after_a_loss_nothing_is_joined():
    """L2: across lost events nobody can tell whether it is the same socket."""
    rows = client()
    for row in rows[5:]:
        row["lost"] = 1
    assert len(set(joined(steps(*rows))["socket"])) > 1


@settings(deadline=None, max_examples=50)  # how long it takes is the machine's affair
@given(st.data())
def test_batches_make_no_difference(data):
    """However the events are cut into batches, what is shown in the end has the same owner, ends and connect times."""
    alone = [step(time_ns, Kind.ARRIVED, skaddr=0) for time_ns in (620, 720)]
    late = step(710, Kind.PROCESSED, skaddr=0xD0, enter_ns=695, oldstate="CLOSE", state="CLOSE")
    again = client(1500, 9, skaddr=0xD0)
    events = steps(*client(100), *client(1000, 8), *service(150), *client(500, 5, skaddr=0xD0), *alone, late, *again)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=4)))
    whole = joined(events)
    for role in (Role.CLIENT, Role.SERVICE):
        tracker = Tracker(role)
        shown = np.concatenate([tracker.rows(batch) for batch in np.split(events, cuts)])
        expected = whole[np.isin(whole["role"], (role, Role.UNKNOWN))]
        for name in ("time_ns", "kind", "skaddr", "netns", "connect_ns"):
            assert shown[name].tolist() == expected[name].tolist()
        # What nobody could know when it was shown stays unknown, and nothing else is said.
        for name in ("tgid", "lport", "rport"):
            assert all(told in {0, true} for told, true in zip(shown[name], expected[name], strict=True))


@settings(deadline=None, max_examples=50)  # how long it takes is the machine's affair
@given(st.data())
def test_a_filter_loses_no_row_in_any_batch(data):
    """S4: rows whose owner or port is not known yet wait for it: of one process, or one port, every row comes once."""
    events = steps(*client(100), *client(1000, 8), *service(150), *client(500, 7, skaddr=0xD0))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=4)))
    for how, count in (({"tgid": 7}, 20), ({"tgid": 8}, 10), ({"lports": [40000]}, 30), ({"lports": [1]}, 0)):
        tracker = Tracker(Role.CLIENT, **how)
        shown = np.concatenate([tracker.rows(batch) for batch in np.split(events, cuts)])
        assert len(shown) == count
        assert tracker.end() == ""
    tracker = Tracker(Role.SERVICE, tgid=9)
    assert sum(len(tracker.rows(batch)) for batch in np.split(events, cuts)) == 6


def test_minimum_latency_is_exact():
    """A2: a row is shown when what it ends took at least the minimum, by its own figure, to the nanosecond."""
    events = steps(*client())
    for least_ns, kinds in (
        (50, [Kind.CONNECT]),
        (51, []),
        (40, [Kind.CHANGED, Kind.CONNECT]),
        (30, [Kind.CHANGED, Kind.CONNECT, Kind.CLOSE]),
    ):
        shown = Tracker(Role.CLIENT, least_ns=least_ns).rows(events)
        assert shown["kind"].tolist() == kinds


def test_what_is_over_is_forgotten():
    """A long run does not grow: a second after a socket has gone nothing of it is kept."""
    tracker = Tracker(Role.CLIENT)
    for number in range(50):
        tracker.rows(steps(*client(number * SECOND * 3, skaddr=0xA00 + number)))
    assert len(tracker._known) <= 6  # noqa: SLF001 (what is kept cannot be seen from outside)


def test_rows_that_wait_do_not_add_up():
    """A socket whose rows wait for their owner is known once, however many batches tell of others."""
    tracker = Tracker(Role.CLIENT, tgid=7)
    tracker.rows(steps(step(100, Kind.ARRIVED, skaddr=0x1)))
    for number in range(20):
        tracker.rows(steps(step(200 + number, Kind.ARRIVED, CLIENT._replace(lport=2), 0x2)))
    assert len(tracker._known) == 2  # noqa: SLF001 (what is kept cannot be seen from outside)


def test_limits_are_told(monkeypatch):
    """More open sockets or waiting rows than are kept: the oldest go, and the end says how many."""
    monkeypatch.setattr("lab.probes.analyse.tracker.MOST_OPEN", 3)
    monkeypatch.setattr("lab.probes.analyse.tracker.MOST_WAITING", 2)
    for how, says in (({}, "5 were forgotten"), ({"tgid": 7}, "8 steps are not shown")):
        tracker = Tracker(Role.CLIENT, **how)
        for number in range(8):
            tracker.rows(steps(step(100 + number, Kind.ARRIVED, CLIENT._replace(lport=1 + number), 0x100 + number)))
        assert says in tracker.end()


def test_nothing():
    """No events, no rows."""
    assert len(joined(steps())) == 0
    assert len(carried(joined(steps()), 0)) == 0
    assert len(Tracker(Role.CLIENT).rows(steps())) == 0
