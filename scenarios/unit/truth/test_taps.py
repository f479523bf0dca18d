"""What the taps prove about one connection, from hand-made segments."""

from dataclasses import replace

import numpy as np
import pytest
from support.made.states import CLIENT

from lab import packet
from lab.network.conditions import FOREVER_NS
from lab.network.taps import TAPPED, TapLog
from lab.tcp import Side
from lab.timeline import Call, Connection, Timeline
from lab.truth import durations
from lab.truth.states import Waits, client_paths, server_paths
from lab.truth.taps import Seen, TapTruth
from lab.verdict import Bracket

END = 90_000
SYN, SYN_ACK, ACK, FIN = packet.SYN, packet.SYN | packet.ACK, packet.ACK, packet.FIN | packet.ACK
TICKS = [np.arange(0, END, 1000), np.arange(500, END, 1000)]
NAMES = [
    ("seq", "<u4"),
    ("ack", "<u4"),
    ("flags", "u1"),
    ("payload", "<u4"),
    ("low_ns", "<i8"),
    ("high_ns", "<i8"),
    ("early", "u1"),
]


def rows(*segments):
    """Return segments of (time, flags, seq, ack, payload); a stamp is known to 4 ns."""
    made = np.zeros(len(segments), NAMES)
    for row, (time_ns, *rest) in zip(made, segments, strict=True):
        row["low_ns"], row["high_ns"] = time_ns, time_ns + 4
        row["flags"], row["seq"], row["ack"], row["payload"] = rest
    return made


def calls(*some):
    return [Call(name, *times) for name, *times in some]


CLIENT_CALLS = calls(("connect", 100, 2000), ("send", 3000, 3100, 10), ("close", 20_000, 20_200))
SERVER_CALLS = calls(("accept", 0, 2500), ("recv", 2600, 9000, 10), ("recv", 9100, 30_000), ("close", 31_000, 31_100))
# The client's segments (left the client, came to the server 100 ns later), and the server's.
SENT = [
    (200, SYN, 999, 0, 0),
    (700, ACK, 1000, 500, 0),
    (3050, ACK, 1000, 500, 10),
    (20_050, FIN, 1010, 500, 0),
    (31_300, ACK, 1011, 501, 0),
]
ANSWERED = [
    (400, SYN_ACK, 499, 1000, 0),
    (3250, ACK, 500, 1010, 0),
    (20_300, ACK, 500, 1011, 0),
    (31_050, FIN, 500, 1011, 0),
]


def later(segments):
    return [(time_ns + 100, *rest) for time_ns, *rest in segments]


def made(sent=SENT, answered=ANSWERED, ticks=TICKS):
    """Return the connection, and what was seen at the client and at the server."""
    client, server = (
        Timeline("client", CLIENT, calls=CLIENT_CALLS),
        Timeline("server", CLIENT.reversed(), calls=SERVER_CALLS),
    )
    at_client = Seen(rows(*sent), rows(*later(answered)), ticks, CLIENT_CALLS)
    at_server = Seen(rows(*answered), rows(*later(sent)), ticks, SERVER_CALLS)
    return Connection(client, server), at_client, at_server


def shown(paths):
    (path,) = paths
    return {it.state.name: (it.earliest_ns, it.latest_ns) for it in path}


def test_states_of_the_closer():
    """What TCP sends bounds what it did before, what came and the ticks bound the rest."""
    connection, seen, _ = made()
    assert shown(client_paths(connection, END, seen)) == {
        "SYN_SENT": (100, 204),
        "ESTABLISHED": (500, 704),
        "FIN_WAIT1": (20_000, 20_054),
        "FIN_WAIT2": (20_400, 21_000),  # a tick of each CPU after 20,404
        "TIME_WAIT": (31_150, 32_000),
    }


def test_states_of_the_other_side():
    """The call that reads the end, and then the segment that acknowledges the FIN, bound CLOSE_WAIT."""
    connection, _, seen = made()
    assert shown(server_paths(connection, END, seen)) == {
        "SYN_RECV": (800, 1500),
        "ESTABLISHED": (800, 1500),
        "CLOSE_WAIT": (20_150, 20_304),
        "LAST_ACK": (31_000, 31_054),
        "CLOSE": (31_400, 32_000),
    }


def test_a_call_in_progress_may_have_kept_the_work():
    """A packet for a socket inside a call waits in its backlog. A sleep is no call on a socket."""
    connection, seen, _ = made()
    inside = Seen(seen.left, seen.came, seen.ticks, [*CLIENT_CALLS[:2], Call("close", 20_000, 25_000)])
    assert shown(client_paths(connection, END, inside))["FIN_WAIT2"] == (20_400, 25_000)
    asleep = Seen(seen.left, seen.came, seen.ticks, [*CLIENT_CALLS, *calls(("sleep", 20_300, 40_000))])
    assert shown(client_paths(connection, END, asleep))["FIN_WAIT2"] == (20_400, 21_000)


@pytest.mark.parametrize(
    "sent",
    [
        [*SENT[:2], SENT[2], (3500, *SENT[2][1:]), *SENT[3:]],  # the data twice
        [*SENT[:2], SENT[3], (21_000, *SENT[2][1:]), SENT[4]],  # the FIN before the data
    ],
)
def test_what_was_lost_or_reordered_has_no_upper_bound_by_ticks(sent):
    """TCP may not have taken, or have kept, what came before a gap."""
    connection, _, seen = made(sent)
    assert shown(server_paths(connection, END, seen))["CLOSE"][1] == END


def test_from_when_on_frames_may_not_have_been_taken():
    """From the first one that came too early; always if any is a copy or if none came; never if all came in order."""
    late = [*SENT[:2], SENT[3], (21_000, *SENT[2][1:]), SENT[4]]
    copied = [*SENT[:2], SENT[2], (3500, *SENT[2][1:]), *SENT[3:]]
    assert [made(sent)[2].gap_ns for sent in (SENT, late, copied, [])] == [FOREVER_NS, 20_150, 0, 0]
    assert [made(sent)[2].sent_again for sent in (SENT, late, copied)] == [False, False, True]


def test_one_tap_of_several():
    """A host can have several interfaces: each tap has its own rows."""
    _, seen, _ = made()
    both = np.dtype([*NAMES, ("tap", "<u2")])
    left = np.zeros(len(SENT), both)
    for name, _ in NAMES:
        left[name] = seen.left[name]
    left["tap"] = [0, 1, 1, 0, 0]
    two = replace(seen, left=left, came=left[:0])
    assert [two.at(tap).left["low_ns"].tolist() for tap in (0, 1, 2)] == [[200, 20_050, 31_300], [700, 3050], []]


def test_without_ticks():
    """A kernel whose softirqs threads can interrupt."""
    connection, seen, _ = made(ticks=[])
    found = shown(client_paths(connection, END, seen))
    assert found["FIN_WAIT1"] == (20_000, 20_054)
    assert found["FIN_WAIT2"] == (20_400, END)


def test_no_tick_yet():
    """If a CPU had no tick after a segment, the segment's work may be unfinished."""
    _, seen, _ = made(ticks=[np.array([1000]), np.array([9000])])
    assert seen.interrupt_ns(500) == 9000
    assert seen.interrupt_ns(1000) == FOREVER_NS


def test_the_time_of_the_handshake():
    """The server's time in SYN_RECV is from its SYN-ACK, and not from the change of state, which the ACK causes."""
    connection, _, seen = made()
    recv, established = server_paths(connection, END, seen)[0][:2]
    assert Waits(None, connection.server, seen).bracket(recv, established)[:2] == (800 - 404, 1500 - 300)


def test_segments_at_both_interfaces():
    """A segment leaves after what it acknowledges came, and came before it was acknowledged."""
    connection, at_client, at_server = made()
    truth = durations.truth_of(connection, END)
    client, server = (
        durations.tapped_at(Side.CLIENT, truth, at_client),
        durations.tapped_at(Side.SERVER, truth, at_server),
    )
    assert (client.start[:2], server.start[:2]) == ((100, 204), (300, 404))
    assert (client.answered[:2], server.answered[:2]) == ((500, 704), (300, 404))
    assert [end[1:3] for end in client.ends] == [(20_000, 20_054), (31_150, 31_304)]
    assert [end[1:3] for end in server.ends] == [(20_150, 20_304), (31_000, 31_054)]


def test_a_copy_of_the_syn_that_comes_after_the_end():
    """It need not be counted. One that comes before must be."""
    connection, _, _ = made()
    truth = replace(durations.truth_of(connection, END), syns_again=Bracket.exactly(1))
    _, _, seen = made([*SENT[:1], (250, *SENT[0][1:]), *SENT[1:]])
    assert durations.tapped_at(Side.SERVER, truth, seen).syns_again == Bracket.exactly(1)
    _, _, seen = made([*SENT, (32_000, *SENT[0][1:])])
    assert durations.tapped_at(Side.SERVER, truth, seen).syns_again == Bracket.late(0, 1)


def test_a_copy_is_not_bounded_by_the_answer_to_its_original():
    """A second copy of a segment may come after the first one was acknowledged."""
    _, _, seen = made([*SENT[:3], (9000, *SENT[2][1:]), *SENT[3:]])
    assert seen.coming(seen.came[2])[:2] == (3150, 3254)
    assert seen.coming(seen.came[3])[:2] == (9100, 10_000)


def test_nothing_tapped():
    """Connections of hosts without taps, and of taps that see other addresses (NAT), are not known."""
    connection, _, _ = made()
    truth = TapTruth(TapLog([(7, 1)], np.zeros(0, TAPPED)), 0)
    assert list(truth.of([connection], (7, 8)).values()) == [(None, None)]
    assert shown(client_paths(connection, END, None))["FIN_WAIT2"] == (20_000, END)
