"""Brackets of TCP's state changes, from hand-made and from simulated connections."""

from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.made.states import CLIENT

from lab.errors import LabError
from lab.tcp import Flow
from lab.timeline import Call, Connection, Timeline, pair
from lab.truth.states import Entered, Path, State, between, client_paths, server_paths

END = 900  # ns; each connection below is over by then


def calls(text: str) -> list[Call]:
    """Return calls from a text: `close 100 110`, `recv 20 30 end`, `recv 20 30 ECONNRESET`, separated by commas."""
    found = []
    for words in (call.split() for call in text.split(", ")):
        how = words[3] if len(words) > 3 else ""
        data = words[0] == "recv" and not how
        found.append(Call(words[0], int(words[1]), int(words[2]), 1 if data else 0, "" if how == "end" else how))
    return found


def connection(client: str, server: str | None) -> Connection:
    """Return a connection with these calls of each side."""
    both = Timeline("client", CLIENT, calls=calls(client))
    return Connection(both, server and Timeline("server", CLIENT.reversed(), calls=calls(server)))


def shown(paths: list[Path]) -> list[str]:
    return [", ".join(f"{it.state.name} {it.earliest_ns}-{it.latest_ns}" for it in path) for path in paths]


CLIENT_OPENS, SERVER_OPENS = "SYN_SENT 0-10, ESTABLISHED 0-10", "SYN_RECV 0-15, ESTABLISHED 0-15"


def test_a_plain_close_is_bounded_by_both_sides_calls():
    """The active closer does not read the other's FIN, so the end of the connection is the upper bound (S2)."""
    it = connection("connect 0 10, close 100 110", "accept 5 15, recv 50 120 end, close 130 140")
    assert shown(client_paths(it, END)) == [f"{CLIENT_OPENS}, FIN_WAIT1 100-110, FIN_WAIT2 100-900, TIME_WAIT 130-900"]
    assert shown(server_paths(it, END)) == [f"{SERVER_OPENS}, CLOSE_WAIT 100-120, LAST_ACK 130-140, CLOSE 130-900"]


def test_a_half_close_is_bounded_by_reading_the_other_sides_end():
    """After shutdown() the active closer reads the other's FIN, which gives a tighter bound (S2)."""
    client = "connect 0 10, shutdown 100 110, recv 111 150 end, close 151 160"
    it = connection(client, "accept 5 15, recv 50 120 end, close 130 140")
    assert shown(client_paths(it, END)) == [f"{CLIENT_OPENS}, FIN_WAIT1 100-110, FIN_WAIT2 100-150, TIME_WAIT 130-150"]


def test_the_server_can_close_first():
    """The calls decide which side closes actively, not the role."""
    it = connection("connect 0 10, recv 20 30, recv 31 120 end, close 130 140", "accept 5 15, close 100 110")
    assert shown(client_paths(it, END)) == [f"{CLIENT_OPENS}, CLOSE_WAIT 100-120, LAST_ACK 130-140, CLOSE 130-900"]
    assert shown(server_paths(it, END)) == [f"{SERVER_OPENS}, FIN_WAIT1 100-110, FIN_WAIT2 100-900, TIME_WAIT 130-900"]


def test_when_both_close_at_once_every_outcome_is_possible():
    """If the calls overlap, it is unknown which FIN came first."""
    it = connection("connect 0 10, close 100 120", "accept 5 15, close 110 130")
    states = [[entered.state.name for entered in path[2:]] for path in client_paths(it, END)]
    assert sorted(states) == [
        ["CLOSE_WAIT", "LAST_ACK", "CLOSE"],
        ["FIN_WAIT1", "CLOSING", "TIME_WAIT"],
        ["FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT"],
    ]


def test_the_first_of_two_closers_is_not_passive():
    """A FIN is not received before it is sent, so the first of two closers was not in CLOSE_WAIT."""
    it = connection("connect 0 10, close 100 110", "accept 5 15, close 200 210")
    assert not [path for path in shown(client_paths(it, END)) if "CLOSE_WAIT" in path]


def test_crossing_fins_end_with_the_acknowledgement_not_with_the_fin():
    """In CLOSING the application can have read the other's FIN while the ACK that leads to TIME_WAIT is in flight."""
    client = "connect 0 10, shutdown 100 110, recv 111 150 end, close 151 160"
    it = connection(client, "accept 5 15, shutdown 100 110, recv 111 150 end, close 151 160")
    (crossing,) = [path for path in shown(client_paths(it, END)) if "CLOSING" in path]
    assert crossing == f"{CLIENT_OPENS}, FIN_WAIT1 100-110, CLOSING 100-150, TIME_WAIT 100-900"


def test_a_reset_closes_at_once():
    """The sender of a RST enters CLOSE within its call, the other side no later than its call fails (D2)."""
    it = connection("connect 0 10, linger0 98 99, close 100 110", "accept 5 15, recv 50 130 ECONNRESET, close 140 141")
    assert shown(client_paths(it, END)) == [f"{CLIENT_OPENS}, CLOSE 100-110"]
    assert shown(server_paths(it, END)) == [f"{SERVER_OPENS}, CLOSE 100-130"]


def test_a_reset_that_was_not_read_came_before_the_end():
    """If no call reports the RST, the end of the connection is the upper bound."""
    it = connection("connect 0 10, linger0 98 99, close 100 110", "accept 5 15, close 140 141")
    assert shown(server_paths(it, END)) == [f"{SERVER_OPENS}, CLOSE 100-900"]


def test_when_both_reset_the_first_to_arrive_closes():
    """A side that resets may have been reset just before, so its CLOSE can be as early as the other's RST."""
    it = connection("connect 0 10, linger0 98 99, close 100 110", "accept 5 15, linger0 118 119, close 120 130")
    assert shown(client_paths(it, END)) == [f"{CLIENT_OPENS}, CLOSE 100-110"]
    assert shown(server_paths(it, END)) == [f"{SERVER_OPENS}, CLOSE 100-130"]


@pytest.mark.parametrize("error", ["ECONNREFUSED", "ETIMEDOUT", "EHOSTUNREACH"])
def test_a_connection_that_failed_goes_from_syn_sent_to_close(error):
    """Both state changes are inside connect(), and the server has no socket (D2)."""
    it = connection(f"connect 0 10 {error}, close 20 30", None)
    assert shown(client_paths(it, END)) == ["SYN_SENT 0-10, CLOSE 0-10"]
    assert server_paths(it, END) == []


def test_a_connection_without_a_server_is_refused():
    """If the calls of one side are missing, there is no bracket."""
    with pytest.raises(LookupError, match="was not accepted"):
        client_paths(connection("connect 0 10, close 100 110", None), END)


def test_a_time_between_two_entries_is_bounded_by_both():
    """The shortest time is from latest start to earliest end, the longest from earliest start to latest end."""
    bracket = between(Entered(State.FIN_WAIT1, 100, 110), Entered(State.TIME_WAIT, 130, 150))
    assert (bracket.low, bracket.high, bracket.best) == (20, 50, 35)


def test_a_time_is_never_negative():
    """If the brackets of two entries overlap, the time between them can be 0."""
    bracket = between(Entered(State.SYN_SENT, 0, 10), Entered(State.ESTABLISHED, 0, 10))
    assert (bracket.low, bracket.high) == (0, 10)


class Ended(NamedTuple):
    """One side of a simulated close: when it sent its FIN, and its true path."""

    fin_ns: int
    path: list[tuple[State, int]]


def simulate(mine: int, other: int, there: int, back: int) -> Ended:
    """Simulate RFC 9293 with a constant delay in each direction; FINs leave at `mine` and `other`."""
    came, acknowledged = other + back, mine + there + back
    if came < mine:
        return Ended(mine, [(State.CLOSE_WAIT, came), (State.LAST_ACK, mine), (State.CLOSE, acknowledged)])
    if came < acknowledged:
        return Ended(mine, [(State.FIN_WAIT1, mine), (State.CLOSING, came), (State.TIME_WAIT, acknowledged)])
    return Ended(mine, [(State.FIN_WAIT1, mine), (State.FIN_WAIT2, acknowledged), (State.TIME_WAIT, came)])


SHORT, LONG = st.integers(1, 50), st.integers(60, 400)


@st.composite
def endings(draw):
    """Draw a connection, a time at which it was over, and the true path of each side."""
    there, back, shutdown = draw(SHORT), draw(SHORT), draw(st.booleans())
    who = draw(st.sampled_from(["client", "server", "both"]))
    client_fin = server_fin = 1000
    client_reads = server_reads = ""
    if who == "both":
        server_fin += draw(st.integers(-100, 100))
    elif who == "client":
        read_ns = client_fin + there + draw(SHORT)
        server_fin, server_reads = read_ns + draw(LONG), f", recv 900 {read_ns} end"
    else:
        read_ns = server_fin + back + draw(SHORT)
        client_fin, client_reads = read_ns + draw(LONG), f", recv 900 {read_ns} end"

    def closing(fin_ns: int, came_ns: int, reads: str) -> str:
        enter_ns, exit_ns = fin_ns - draw(SHORT), fin_ns + draw(SHORT)
        if not shutdown or reads:
            return f"{reads}, close {enter_ns} {exit_ns}"
        read_ns = max(exit_ns, came_ns) + draw(SHORT)
        return f", shutdown {enter_ns} {exit_ns}, recv {exit_ns} {read_ns} end, close {read_ns} {read_ns + 1}"

    calls_of_client = "connect 0 200" + closing(client_fin, server_fin + back, client_reads)
    calls_of_server = "accept 10 210" + closing(server_fin, client_fin + there, server_reads)
    opened = [(State.SYN_SENT, 20), (State.ESTABLISHED, 120)], [(State.SYN_RECV, 110), (State.ESTABLISHED, 130)]
    ended = simulate(client_fin, server_fin, there, back), simulate(server_fin, client_fin, back, there)
    truths = [begin + end.path for begin, end in zip(opened, ended, strict=True)]
    end_ns = max(client_fin, server_fin) + there + back + draw(SHORT)
    return connection(calls_of_client, calls_of_server), end_ns, truths


@given(endings())
@settings(deadline=None, derandomize=True, max_examples=300)
def test_the_true_path_is_always_possible_and_inside_its_brackets(case):
    """For every closer, way to close and delay, the true path is among the paths and inside every bracket."""
    it, end_ns, truths = case
    for paths, truth in zip((client_paths(it, end_ns), server_paths(it, end_ns)), truths, strict=True):
        (path,) = [path for path in paths if [entered.state for entered in path] == [state for state, _ in truth]]
        for entered, (_, time_ns) in zip(path, truth, strict=True):
            assert entered.earliest_ns <= time_ns <= entered.latest_ns, entered
        for (start, end), (began, ended) in zip(pairwise(path), pairwise(truth), strict=True):
            assert between(start, end).low <= ended[1] - began[1] <= between(start, end).high


@given(endings())
@settings(deadline=None, derandomize=True, max_examples=300)
def test_no_bracket_is_inverted(case):
    """A path in which a FIN is received before it is sent is not possible, so it is not returned."""
    it, end_ns, _ = case
    for path in client_paths(it, end_ns) + server_paths(it, end_ns):
        brackets = [entered.bracket for entered in path]
        brackets += [between(start, end) for start, end in pairwise(path)]
        assert all(bracket.low <= bracket.best <= bracket.high for bracket in brackets), shown([path])


def test_clients_find_the_servers_of_their_flows():
    """Timelines pair by flow, in the order of opening; a client that was not accepted has no server."""
    other = Flow("192.0.2.1", 40001, "192.0.2.2", 80)
    late = Timeline("client", CLIENT, calls=calls("connect 9 10"))
    early = Timeline("client", other, calls=calls("connect 1 2"))
    server = Timeline("server", CLIENT.reversed(), calls=calls("accept 9 11"))
    assert pair([late, server, early]) == [Connection(early, None), Connection(late, server)]


def test_a_printed_timeline_is_read_back():
    """The JSON of a timeline gives the same timeline, also with an error and a process."""
    timeline = Timeline("client", CLIENT, 5, 42, "lab", calls("connect 0 10 ECONNREFUSED, close 20 30"))
    assert Timeline.from_json(timeline.to_json()) == timeline


@pytest.mark.parametrize("text", ["", "hello", "[]", "{}", '{"flow": 5}', '{"flow": [1, 2, 3, 4], "calls": []}'])
def test_other_lines_are_refused(text):
    """The error for any other line of output shows the line."""
    with pytest.raises(LabError, match="not a timeline"):
        Timeline.from_json(text)
