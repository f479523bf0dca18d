"""From state changes to times in states: each time is correct or unknown, never wrong."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from support.made.states import (
    CLIENT,
    NOWHERE,
    SERVER,
    Traffic,
    Truth,
    change,
    changes,
    life,
    packed,
    segment,
    spent,
    traffic,
)

from lab.arrays import UNKNOWN
from lab.choice import Choice
from lab.probes.states.measure import transitions
from lab.probes.states.tracker import Tracker
from lab.tcp import Flow, State, address_text

thoroughly = settings(deadline=None, derandomize=True, max_examples=200, phases=set(Phase) - {Phase.explain})
ACTIVE_CLOSE = "CLOSE -> SYN_SENT -> ESTABLISHED -> FIN_WAIT1 -> FIN_WAIT2"


def arrows(rows) -> list[str]:
    return [f"{State(row['oldstate']).name} -> {State(row['newstate']).name}" for row in rows]


def described(row) -> SimpleNamespace:
    """Return one row in the terms of the truth."""
    flow = Flow(
        address_text(row["laddr"].tobytes()), int(row["lport"]), address_text(row["raddr"].tobytes()), int(row["rport"])
    )
    duration_ns = int(row["duration_ns"])
    return SimpleNamespace(arrow=arrows([row])[0], duration_ns=duration_ns, flow=flow, tgid=int(row["tgid"]))


def as_truth(rows) -> list[Truth]:
    """Return measured rows in the form of the truth."""
    seen = [(int(row["time_ns"]), int(row["netns"]), described(row)) for row in rows]
    return [Truth(time_ns, it.arrow, it.duration_ns, it.flow, netns, it.tgid) for time_ns, netns, it in seen]


def test_no_events_give_no_rows():
    """Without events the result is empty and has all columns."""
    rows = transitions(changes())
    assert len(rows) == 0
    assert {"socket", "duration_ns", "time_ns"} <= set(rows.dtype.names)


def test_an_active_open_and_a_passive_close_are_timed_state_by_state():
    """Each state lasts from its own row to the next. The time before the first row is unknown, not 0 (S3)."""
    path = "CLOSE -> SYN_SENT -> ESTABLISHED -> CLOSE_WAIT -> LAST_ACK -> CLOSE"
    rows = transitions(changes(*life(path)))
    assert spent(rows) == [("CLOSE", None), ("SYN_SENT", 10), ("ESTABLISHED", 10), ("CLOSE_WAIT", 10), ("LAST_ACK", 10)]


def test_a_measured_zero_is_not_unknown():
    """Two events in the same nanosecond are 0 ns apart, not unknown (S3)."""
    rows = transitions(changes(change(7, "CLOSE -> SYN_SENT"), change(7, "SYN_SENT -> ESTABLISHED")))
    assert spent(rows) == [("CLOSE", None), ("SYN_SENT", 0)]


def test_an_active_close_of_a_full_socket_is_timed_to_time_wait():
    """After shutdown() the full socket stays, so FIN_WAIT2 has a row of its own; TIME_WAIT is the last state (S2)."""
    rows = transitions(changes(*life(f"{ACTIVE_CLOSE} -> TIME_WAIT")))
    assert spent(rows)[3:] == [("FIN_WAIT1", 10), ("FIN_WAIT2", 10)]


def test_a_simultaneous_close_is_timed_through_closing():
    """Crossing FINs give FIN_WAIT1, CLOSING, TIME_WAIT."""
    rows = transitions(changes(*life("SYN_SENT -> ESTABLISHED -> FIN_WAIT1 -> CLOSING -> TIME_WAIT")))
    assert spent(rows)[2:] == [("FIN_WAIT1", 10), ("CLOSING", 10)]


def test_a_listener_has_its_own_rows():
    """The time in LISTEN is measured, independent of the listener's children."""
    listener = [change(1, "CLOSE -> LISTEN", SERVER, 0xB0), change(100, "LISTEN -> CLOSE", SERVER, 0xB0)]
    rows = transitions(changes(*listener, *life("LISTEN -> SYN_RECV -> CLOSE", SERVER, 0xB8, start_ns=20)))
    assert spent(rows) == [("CLOSE", None), ("LISTEN", None), ("SYN_RECV", None), ("LISTEN", 99)]


def test_syn_recv_of_a_passive_open_is_the_kernels_sample():
    """The child is created only at the final ACK, so its SYN_RECV is the kernel's own sample of the handshake (S1)."""
    born = change(500, "LISTEN -> SYN_RECV", SERVER)
    established = change(503, "SYN_RECV -> ESTABLISHED", SERVER, handshake_rtt_us=20_000)
    assert spent(transitions(changes(born, established))) == [("LISTEN", None), ("SYN_RECV", 20_000_000)]


def test_syn_recv_of_a_passive_open_without_a_sample_is_unknown():
    """After a retransmitted SYN-ACK there is no sample; the time between the child's rows is not used (S1)."""
    child = change(500, "LISTEN -> SYN_RECV", SERVER), change(503, "SYN_RECV -> ESTABLISHED", SERVER)
    assert spent(transitions(changes(*child))) == [("LISTEN", None), ("SYN_RECV", None)]


def test_syn_recv_of_a_simultaneous_open_is_the_time_between_its_rows():
    """A socket that was in SYN_SENT existed before, so its own time stamps are used (S1)."""
    rows = [*life("CLOSE -> SYN_SENT -> SYN_RECV"), change(90, "SYN_RECV -> ESTABLISHED", handshake_rtt_us=20000)]
    assert spent(transitions(changes(*rows)))[2] == ("SYN_RECV", 80)


def test_the_local_port_of_syn_sent_is_filled_in():
    """connect() binds a port after the first row; port and address of that row are filled in (S4)."""
    first = change(0, "CLOSE -> SYN_SENT", lport=0, laddr=packed(NOWHERE))
    rows = transitions(changes(first, change(10, "SYN_SENT -> ESTABLISHED")))
    assert described(rows[0]).flow == CLIENT


def test_the_remote_port_of_a_child_is_filled_in():
    """The kernel copies the peer's address after the child's first row; the address of that row is filled in (S4)."""
    first = change(0, "LISTEN -> SYN_RECV", SERVER, rport=0, raddr=packed(NOWHERE))
    rows = transitions(changes(first, change(10, "SYN_RECV -> ESTABLISHED", SERVER)))
    assert described(rows[0]).flow == SERVER


def test_the_owner_that_closed_a_socket_owns_its_later_rows():
    """No process can get a socket after its last close(): the later rows have its owner (S7). Earlier rows do not."""
    closed = change(90, "ESTABLISHED -> FIN_WAIT1", tgid=42, comm="server", closed=1)
    rows = transitions(changes(*life("LISTEN -> SYN_RECV -> ESTABLISHED"), closed, change(95, "FIN_WAIT1 -> CLOSE")))
    assert [(int(row["tgid"]), row["comm"]) for row in rows] == [(0, b""), (0, b""), (42, b"server"), (42, b"server")]


def test_a_socket_that_is_open_can_have_another_owner_at_the_next_row():
    """S13: fork() and SCM_RIGHTS pass a socket on, so a row from softirq does not have the owner of the row before."""
    rows = change(0, "CLOSE -> SYN_SENT", tgid=42), *life("SYN_SENT -> ESTABLISHED -> CLOSE_WAIT", start_ns=10)
    assert transitions(changes(*rows))["tgid"].tolist() == [42, 0, 0]


def test_an_unknown_owner_stays_unknown():
    """The owner of one socket is not filled in for another socket (S7)."""
    rows = life("CLOSE -> SYN_SENT", skaddr=0xA0, tgid=42) + life("LISTEN -> SYN_RECV", SERVER, 0xB0)
    assert transitions(changes(*rows))["tgid"].tolist() == [42, 0]


def test_the_second_owner_of_a_socket_keeps_its_rows():
    """A row with an owner keeps it, even if the socket had another owner before."""
    rows = change(0, "CLOSE -> SYN_SENT", tgid=42), change(1, "SYN_SENT -> CLOSE", tgid=43)
    assert transitions(changes(*rows))["tgid"].tolist() == [42, 43]


@pytest.mark.parametrize("end", ["CLOSE", "FIN_WAIT1 -> CLOSE", "FIN_WAIT1 -> CLOSING -> TIME_WAIT"])
def test_a_new_socket_inherits_nothing_from_the_old_one_at_its_address(end):
    """The first row of the new socket has an unknown time; port and owner are its own (S5)."""
    old = life(f"CLOSE -> SYN_SENT -> ESTABLISHED -> {end}", tgid=42)
    new = life("CLOSE -> SYN_SENT -> ESTABLISHED", CLIENT._replace(lport=40001), start_ns=100)
    rows = transitions(changes(*old, *new))[-2:]
    assert spent(rows) == [("CLOSE", None), ("SYN_SENT", 10)]
    assert [(it.flow.lport, it.tgid) for it in map(described, rows)] == [(40001, 0)] * 2


def test_a_child_at_a_reused_address_inherits_nothing():
    """A listener's child is a new socket (S5)."""
    rows = life("SYN_SENT -> ESTABLISHED") + life("LISTEN -> SYN_RECV -> ESTABLISHED", SERVER, start_ns=100)
    assert len(set(transitions(changes(*rows))["socket"])) == 2


@pytest.mark.parametrize("end", [{"rport": 50001}, {"raddr": "192.0.2.9"}, {"lport": 81}])
def test_another_flow_at_the_same_address_is_another_socket(end):
    """The events between two sockets of one kernel address are missing; the states fit, the flows differ (S5)."""
    old = life("LISTEN -> SYN_RECV -> ESTABLISHED -> CLOSE_WAIT", SERVER)
    new = life("CLOSE_WAIT -> LAST_ACK -> CLOSE", SERVER._replace(**end), start_ns=100)
    rows = transitions(changes(*old, *new))
    assert spent(rows)[-2:] == [("CLOSE_WAIT", None), ("LAST_ACK", 10)]
    assert [it.flow for it in map(described, rows)] == [SERVER] * 3 + [SERVER._replace(**end)] * 2


def test_the_same_change_of_another_flow_is_not_a_repetition():
    """The events between the ends of two sockets are missing, and the second program reported the second end."""
    rows = changes(
        change(0, "LAST_ACK -> CLOSE"), change(900, "LAST_ACK -> CLOSE", CLIENT._replace(lport=40001), again=1)
    )
    assert spent(transitions(rows)) == [("LAST_ACK", None), ("LAST_ACK", None)]


def test_a_lost_event_makes_the_next_time_unknown():
    """A row between ESTABLISHED and LAST_ACK is missing: the time in CLOSE_WAIT is unknown, the next one is known."""
    rows = life("CLOSE -> SYN_SENT -> ESTABLISHED -> CLOSE_WAIT -> LAST_ACK -> CLOSE")
    del rows[2]
    assert spent(transitions(changes(*rows)))[2:] == [("CLOSE_WAIT", None), ("LAST_ACK", 10)]


def test_a_loss_between_two_rows_of_the_same_state_makes_the_time_unknown():
    """The lost events may be the end of one socket and the beginning of another, even if the states fit (S5, L2)."""
    lost = [*life("SYN_SENT -> ESTABLISHED"), change(900, "ESTABLISHED -> CLOSE_WAIT", lost=4)]
    assert spent(transitions(changes(*lost))) == [("SYN_SENT", None), ("ESTABLISHED", None)]


def test_fin_wait2_lasts_until_the_minisock_receives_the_fin():
    """After close() a minisock receives the peer's FIN; the time and TIME_WAIT are reported for the socket (S2)."""
    rows = transitions(changes(*life(ACTIVE_CLOSE, tgid=42, closed=1), segment(700)))
    assert arrows(rows)[-1] == "FIN_WAIT2 -> TIME_WAIT"
    assert spent(rows)[-1] == ("FIN_WAIT2", 670)
    assert (rows["skaddr"] == 0xA0).all()
    assert (rows["tgid"] == 42).all()


def test_a_reset_ends_the_wait_of_a_minisock():
    """A RST in FIN_WAIT2 ends it with CLOSE (S2)."""
    rows = transitions(changes(*life(ACTIVE_CLOSE), segment(700, newstate="CLOSE")))
    assert (arrows(rows)[-1], spent(rows)[-1]) == ("FIN_WAIT2 -> CLOSE", ("FIN_WAIT2", 670))


def test_a_retransmitted_fin_changes_nothing():
    """Only the first FIN ends FIN_WAIT2 (S2)."""
    events = [*life(ACTIVE_CLOSE), segment(700)]
    assert (transitions(changes(*events, segment(900), segment(901))) == transitions(changes(*events))).all()


@pytest.mark.parametrize(
    "other",
    [
        segment(700, netns=2),
        segment(700, CLIENT._replace(lport=40001)),
        segment(700, CLIENT._replace(rport=81)),
        segment(700, CLIENT._replace(laddr="192.0.2.3")),
        segment(700, CLIENT._replace(raddr="192.0.2.3")),
        segment(700, SERVER),
        segment(20),
    ],
    ids=["namespace", "local port", "remote port", "local address", "remote address", "direction", "too early"],
)
def test_a_segment_of_another_minisock_ends_no_wait(other):
    """A segment is matched only with a socket of the same namespace and flow that is in FIN_WAIT2 already (S2)."""
    assert len(spent(transitions(changes(*life(ACTIVE_CLOSE), other)))) == 4


def test_a_segment_alone_gives_no_row():
    """A segment for a minisock from before the recording is unmatched and has no row."""
    assert len(spent(transitions(changes(segment(5), segment(6, SERVER))))) == 0


def test_no_segment_is_matched_after_fin_wait2():
    """A retransmitted FIN is not matched with a full socket that has received its FIN before (S2)."""
    assert len(spent(transitions(changes(*life(f"{ACTIVE_CLOSE} -> TIME_WAIT"), segment(700))))) == 5


def test_an_address_reused_during_the_wait_is_another_socket():
    """close() frees the socket's address; the next socket there neither ends the wait nor inherits from it (S2, S5)."""
    new = life("CLOSE -> SYN_SENT -> ESTABLISHED", CLIENT._replace(lport=40001), start_ns=100)
    rows = transitions(changes(*life(ACTIVE_CLOSE), *new, segment(700)))
    assert spent(rows)[-3:] == [("CLOSE", None), ("SYN_SENT", 10), ("FIN_WAIT2", 670)]
    assert [described(row).flow.lport for row in rows[-3:]] == [40001, 40001, 40000]


def test_a_segment_after_the_flow_was_reused_ends_the_later_wait():
    """If the minisock timed out and a later socket of the flow is in FIN_WAIT2, the FIN ends the later wait (S2)."""
    rows = transitions(changes(*life(ACTIVE_CLOSE), *life(ACTIVE_CLOSE, skaddr=0xB0, start_ns=100), segment(700)))
    assert spent(rows)[-1] == ("FIN_WAIT2", 570)
    assert int(rows[-1]["skaddr"]) == 0xB0
    assert len(rows) == 9


def test_a_reused_flow_ends_the_earlier_wait():
    """A retransmitted FIN of a later connection is not matched with the earlier minisock, which timed out (S2)."""
    later = life(f"{ACTIVE_CLOSE} -> TIME_WAIT", skaddr=0xB0, start_ns=100)
    assert len(spent(transitions(changes(*life(ACTIVE_CLOSE), *later, segment(700))))) == 9


def test_a_change_that_both_programs_report_is_one_row():
    """If the second program repeats a report of the first, the first report counts."""
    repeated = change(3, "CLOSE -> SYN_SENT", again=1)
    rows = transitions(changes(change(0, "CLOSE -> SYN_SENT"), repeated, change(10, "SYN_SENT -> CLOSE")))
    assert spent(rows) == [("CLOSE", None), ("SYN_SENT", 10)]


def test_a_change_that_only_the_second_program_reports_is_a_row():
    """A change that the kernel withheld from the first program is measured."""
    rows = transitions(changes(change(0, "CLOSE -> SYN_SENT"), change(10, "SYN_SENT -> CLOSE", again=1)))
    assert spent(rows) == [("CLOSE", None), ("SYN_SENT", 10)]


def test_after_a_loss_a_repeated_change_may_be_another_one():
    """After a loss, the same change may be of the next socket at the address: it stays, and its time is unknown."""
    rows = changes(change(0, "CLOSE -> SYN_SENT"), change(900, "CLOSE -> SYN_SENT", again=1, lost=3))
    assert spent(transitions(rows)) == [("CLOSE", None), ("CLOSE", None)]


@given(traffic(), st.randoms(use_true_random=False))
@thoroughly
def test_every_row_of_random_traffic_equals_the_truth(case: Traffic, random):
    """Sockets interleave and events come in any order: each row equals the truth (S1-S5, S7)."""
    order = list(range(len(case.events)))
    random.shuffle(order)
    assert as_truth(transitions(case.events[order])) == case.truth


def with_losses(events, random):
    """Return the events without random ones that are lost, and count the lost ones in `lost`."""
    lost = np.array([random.random() < 0.3 for _ in events], bool)
    events["lost"] = np.cumsum(lost)
    return events[~lost]


@given(traffic(repeats=False), st.randoms(use_true_random=False))
@thoroughly
def test_losing_events_makes_times_unknown_but_never_wrong(case: Traffic, random):
    """If random events are lost, each time, port and owner is the true one or unknown (L2, S5)."""
    truths = {truth.time_ns: truth for truth in case.truth}
    for row in transitions(with_losses(case.events.copy(), random)):
        truth, it = truths.get(int(row["time_ns"])), described(row)
        assert it.duration_ns in (UNKNOWN, truth.duration_ns if truth else UNKNOWN)
        if truth:
            assert it.flow.lport in (0, truth.flow.lport)
            assert it.flow.rport in (0, truth.flow.rport)
            assert it.tgid in (0, truth.tgid)


@given(traffic(), st.randoms(use_true_random=False))
@thoroughly
def test_complete_traffic_has_no_gap(case: Traffic, random):
    """S11: if no event is missing, no row has a gap before it, however the stream is cut into batches."""
    cuts = sorted(random.randrange(len(case.events) + 1) for _ in range(random.randrange(5)))
    tracker = Tracker(Choice())
    for batch in np.split(case.events, cuts):
        tracker.rows(batch)
    assert "missing" not in tracker.end()


@pytest.mark.parametrize("cut", [False, True], ids=["one batch", "two batches"])
@pytest.mark.parametrize("missing", [[1], [1, 2], [3], [3, 4]])
def test_missing_events_are_noticed(missing, cut):
    """S11: events that the kernel withheld are noticed at the next event of the socket or at its kernel address."""
    first = life("CLOSE -> SYN_SENT -> ESTABLISHED -> FIN_WAIT1 -> FIN_WAIT2 -> TIME_WAIT")
    events = [*first, *life("CLOSE -> SYN_SENT", CLIENT._replace(lport=40001), start_ns=100)]
    seen = [event for index, event in enumerate(events) if index not in missing]
    tracker = Tracker(Choice())
    for batch in (seen[:3], seen[3:]) if cut else (seen,):
        tracker.rows(changes(*batch))
    assert "at 1 rows" in tracker.end()


FILTERS = st.fixed_dictionaries(
    {
        "ports": st.sampled_from([[], [], [80], [40000, 443]]),
        "local_ports": st.sampled_from([[], [80], [40000], [9]]),
        "remote_ports": st.sampled_from([[], [80], [443, 50000]]),
        "version": st.sampled_from([0, 4, 6]),
    }
).map(lambda given: Choice(**given))


def wanted(truth: Truth, chosen: Choice) -> bool:
    return (
        (not chosen.ports or bool({truth.flow.lport, truth.flow.rport} & set(chosen.ports)))
        and (not chosen.local_ports or truth.flow.lport in chosen.local_ports)
        and (not chosen.remote_ports or truth.flow.rport in chosen.remote_ports)
        and (not chosen.version or (":" in truth.flow.laddr + truth.flow.raddr) == (chosen.version == 6))
    )


@given(traffic(), FILTERS, st.randoms(use_true_random=False))
@thoroughly
def test_rows_do_not_depend_on_how_the_stream_is_cut_into_batches(case: Traffic, chosen, random):
    """With and without filters, each row of a matching connection is printed once, with the same times (S4)."""
    cuts = sorted(random.randrange(len(case.events) + 1) for _ in range(random.randrange(5)))
    tracker = Tracker(chosen)
    shown = [row for batch in np.split(case.events, cuts) for row in tracker.rows(batch)]
    whole = {truth.time_ns for truth in case.truth if truth.flow.lport and truth.flow.rport}
    seen = [(int(row["time_ns"]), described(row)) for row in shown if int(row["time_ns"]) in whole]
    expected = [truth for truth in case.truth if truth.time_ns in whole and wanted(truth, chosen)]
    assert sorted((time_ns, it.arrow, it.duration_ns) for time_ns, it in seen) == [truth[:3] for truth in expected]
    truths = {truth.time_ns: truth for truth in expected}
    for time_ns, it in seen:  # a value from a later batch may be missing, but no value may be of another socket
        assert it.flow.lport in (0, truths[time_ns].flow.lport)
        assert it.flow.rport in (0, truths[time_ns].flow.rport)
        assert it.tgid in (0, truths[time_ns].tgid)


@given(traffic(), FILTERS)
@thoroughly
def test_one_batch_shows_each_row_as_it_was_measured(case: Traffic, chosen):
    """A single batch gives the rows of `transitions`, in order of time (S4)."""
    complete = [truth for truth in case.truth if truth.flow.lport and truth.flow.rport]
    shown = [it for it in as_truth(Tracker(chosen).rows(case.events)) if it.flow.lport and it.flow.rport]
    assert shown == [truth for truth in complete if wanted(truth, chosen)]


def test_syn_sent_is_held_back_until_its_port_is_known():
    """With a filter on the local port, SYN_SENT is printed after connect() has bound a port (S4)."""
    tracker = Tracker(Choice(local_ports=[CLIENT.lport]))
    assert len(spent(tracker.rows(changes(change(0, "CLOSE -> SYN_SENT", lport=0))))) == 0
    assert "1 connections had no port yet" in tracker.end()
    rows = tracker.rows(changes(change(10, "SYN_SENT -> ESTABLISHED")))
    assert spent(rows) == [("CLOSE", None), ("SYN_SENT", 10)]
    assert rows["lport"].tolist() == [CLIENT.lport] * 2
    assert tracker.end() == ""


def test_syn_recv_is_held_back_until_its_port_is_known():
    """With a filter on the remote port, SYN_RECV is printed after the kernel has set the child's peer (S4)."""
    tracker = Tracker(Choice(remote_ports=[SERVER.rport]))
    assert len(spent(tracker.rows(changes(change(0, "LISTEN -> SYN_RECV", SERVER, rport=0))))) == 0
    rows = tracker.rows(changes(change(10, "SYN_RECV -> ESTABLISHED", SERVER, handshake_rtt_us=3)))
    assert spent(rows) == [("LISTEN", None), ("SYN_RECV", 3000)]


def test_a_wait_survives_the_reuse_of_its_address_across_batches():
    """A new socket at the address, in a later batch, neither ends the wait nor shares its ports (S2, S5)."""
    tracker, new = Tracker(Choice()), CLIENT._replace(lport=40001)
    tracker.rows(changes(*life(ACTIVE_CLOSE, tgid=42, closed=1)))
    tracker.rows(changes(*life("CLOSE -> SYN_SENT -> ESTABLISHED", new, start_ns=100)))
    rows = tracker.rows(changes(segment(700), change(800, "ESTABLISHED -> CLOSE_WAIT", new)))
    assert spent(rows) == [("FIN_WAIT2", 670), ("ESTABLISHED", 690)]
    assert [(described(row).flow.lport, described(row).tgid) for row in rows] == [(40000, 42), (40001, 0)]


def test_a_reused_flow_ends_an_earlier_wait_across_batches():
    """A retransmitted FIN in a later batch is unmatched (S2)."""
    tracker = Tracker(Choice())
    tracker.rows(changes(*life(ACTIVE_CLOSE)))
    tracker.rows(changes(*life(ACTIVE_CLOSE, skaddr=0xB0, start_ns=100), segment(200)))
    elsewhere = CLIENT._replace(lport=40001)
    for start_ns in (300, 400):
        tracker.rows(changes(*life("CLOSE -> SYN_SENT -> CLOSE", elsewhere, 0xC0, start_ns)))
    assert len(spent(tracker.rows(changes(segment(700))))) == 0


def test_a_repeated_report_in_a_later_batch_is_no_row():
    """A second report of the same change has no row, even after the socket's end was printed."""
    tracker = Tracker(Choice())
    tracker.rows(changes(*life("CLOSE -> SYN_SENT -> CLOSE")))
    assert len(spent(tracker.rows(changes(change(11, "SYN_SENT -> CLOSE", again=1))))) == 0


def test_more_sockets_than_are_kept(monkeypatch):
    """The oldest are forgotten, and the note says how many: the next change of those has no time."""
    monkeypatch.setattr("lab.probes.states.tracker._MOST_OPEN", 2)
    tracker, flows = Tracker(Choice()), [CLIENT._replace(lport=40000 + number) for number in range(3)]
    for number, flow in enumerate(flows):
        tracker.rows(changes(*life("CLOSE -> SYN_SENT -> ESTABLISHED", flow, 0xA00 * (number + 1), 100 * number)))
    ends = [change(900, "ESTABLISHED -> CLOSE", flow, 0xA00 * (at + 1)) for at, flow in enumerate(flows)]
    assert spent(tracker.rows(changes(*ends))) == [("ESTABLISHED", None), ("ESTABLISHED", 790), ("ESTABLISHED", 690)]
    assert tracker.end() == "more than 2 sockets were open: 1 were forgotten"
