"""Brackets for the segments that open and end a connection: from the calls, the wire's log, and one direction alone."""

from dataclasses import replace

import numpy as np
import pytest
from support.made.observed import PACKETS, conversation, observed, refused
from support.made.timelines import END, FLOW

from lab.network.segment_parser import opens
from lab.tcp import Ended, Side
from lab.timeline import Call, Connection, Timeline
from lab.truth.durations import End, one_way, seen_at, truth_of
from lab.verdict import Bracket

SECOND = 1_000_000_000


def connection(client, server, connect=(0, 100)):
    """Return a connection with these calls after its opening."""
    ends = Timeline("client", FLOW, calls=[Call("connect", *connect), *client])
    accepted = Call("accept", connect[0], connect[1] + 30)
    return Connection(ends, Timeline("server", FLOW.reversed(), calls=[accepted, *server]))


CLOSE_C, CLOSE_S = Call("close", 500, 510), Call("close", 700, 710)
RESET = Call("linger0", 480, 490)


def test_both_sides_close():
    """A FIN leaves after the call that sends it was entered, and came before the call returns that reports it."""
    truth = truth_of(conversation(), END)
    assert (truth.start[:2], truth.answered[:2]) == ((0, 100), (0, 130))
    assert truth.ended == [Ended.FIN]
    assert truth.ends == [End(Side.CLIENT, 500, 600, is_rst=False), End(Side.SERVER, 700, END, is_rst=False)]
    assert (truth.first_end[:2], truth.second_fin[:2]) == ((500, 600), (700, END))
    assert truth.closed_first == [Side.CLIENT]
    assert truth.fins_again is None


def test_both_close_at_once():
    """Either may have been the first: the first end is at the earlier one, the second at the later one."""
    truth = truth_of(connection([Call("close", 500, 510)], [Call("close", 505, 515)]), END)
    assert truth.closed_first == [Side.CLIENT, Side.SERVER]
    assert (truth.first_end[:2], truth.second_fin[:2]) == ((500, END), (505, END))
    later = replace(truth, ends=[End(Side.CLIENT, 5, 9, is_rst=False), End(Side.SERVER, 9, 12, is_rst=False)])
    assert later.closed_first == [Side.CLIENT]
    assert (later.first_end[:2], later.second_fin[:2]) == ((5, 9), (9, 12))


def test_a_reset():
    """There is one end if the other side saw the RST before it closed, and two if it did not."""
    heard = truth_of(connection([RESET, CLOSE_C], [Call("recv", 200, 600, 0, "ECONNRESET"), CLOSE_S]), END)
    assert (heard.ended, heard.second_fin) == ([Ended.RST], None)
    assert heard.ends == [End(Side.CLIENT, 500, 600, is_rst=True)]
    unheard = truth_of(connection([RESET, CLOSE_C], [Call("close", 400, 410), Call("recv", 415, 600, 0, "EPIPE")]), END)
    assert unheard.ends == [End(Side.CLIENT, 500, 600, is_rst=True), End(Side.SERVER, 400, END, is_rst=False)]
    assert unheard.ended == [Ended.RST]


@pytest.mark.parametrize(
    ("error", "ended"),
    [("ECONNREFUSED", [Ended.REFUSED]), ("ETIMEDOUT", [Ended.TIMEOUT, Ended.OPEN])],
)
def test_a_connection_that_failed(error, ended):
    """A refusal is a RST of the server, inside connect(); a SYN that nobody answers has no end."""
    failed = Connection(Timeline("client", FLOW, calls=[Call("connect", 10, 100, 0, error), CLOSE_C]), None)
    truth = truth_of(failed, END)
    assert (truth.ended, truth.start[:2], truth.second_fin) == (ended, (10, 100), None)
    assert truth.ends == ([End(Side.SERVER, 10, 100, is_rst=True)] if error == "ECONNREFUSED" else [])


def test_a_connection_without_a_server():
    """It cannot be judged."""
    with pytest.raises(LookupError, match="was not accepted"):
        truth_of(Connection(conversation().client, None), END)


@pytest.mark.parametrize(("took_ns", "most"), [(SECOND * 98 // 100, 0), (SECOND, 1), (2 * SECOND, 2)])
def test_how_often_a_syn_can_have_been_sent_again(took_ns, most):
    """Once a second at most, until the connection was accepted, or refused, or nobody answered."""
    slow = connection(
        [Call("close", 3 * SECOND, 3 * SECOND + 1)], [Call("close", 3 * SECOND, 3 * SECOND + 1)], (0, took_ns)
    )
    assert truth_of(slow, 4 * SECOND).syns_again == (0, most, 0)
    for error in ("ECONNREFUSED", "ETIMEDOUT"):
        failed = Connection(Timeline("client", FLOW, calls=[Call("connect", 0, took_ns, 0, error)]), None)
        assert truth_of(failed, 4 * SECOND).syns_again == (0, most, 0)


def carried(packets=PACKETS):
    ((_, on_wire),) = observed(packets, wire=True).with_wire()
    return on_wire


def test_the_wires_log_at_both_interfaces():
    """A segment passed its sender's interface before it came to the wire, its receiver's after it left the wire."""
    truth = truth_of(conversation(), END)
    client, server = (seen_at(side, truth, carried()) for side in (Side.CLIENT, Side.SERVER))
    assert (client.start[:2], server.start[:2]) == ((0, 10 + 3), (30 - 6, 100))
    assert [end[1:3] for end in client.ends] == [(500, 505 + 3), (725 - 6, END)]
    assert [end[1:3] for end in server.ends] == [(525 - 6, 600), (700, 705 + 3)]
    assert [truth.answered for truth in (client, server)] == [truth.answered] * 2
    assert client.syns_again == server.syns_again == Bracket.exactly(0)
    assert client.fins_again == server.fins_again == (0, 0, 0)


def test_segments_that_were_sent_again():
    """Each interface has its own number: a copy that was lost on the way passed one of them only."""
    twice = [packet for packet in PACKETS for packet in (packet, packet) if packet.flags & 3 or packet is PACKETS[2]]
    on_wire = carried(twice)
    truth = truth_of(conversation(), END)
    assert seen_at(Side.CLIENT, truth, on_wire).syns_again == Bracket.exactly(1)
    assert seen_at(Side.CLIENT, truth, on_wire).fins_again == (0, 2, 0)
    rows = on_wire.to_server.carried
    rows["fate"][np.flatnonzero(opens(rows))[0]] = 1  # lost
    assert seen_at(Side.CLIENT, truth, on_wire).syns_again == Bracket.exactly(1)
    assert seen_at(Side.SERVER, truth, on_wire).syns_again == Bracket.exactly(0)


def test_a_log_without_the_connection():
    """It bounds nothing."""
    on_wire = carried()
    nothing = type(on_wire)(*(type(way)(way.carried[:0]) for way in on_wire.streams))
    truth = truth_of(conversation(), END)
    for side in (Side.CLIENT, Side.SERVER):
        seen = seen_at(side, truth, nothing)
        assert (seen.start, seen.ends, seen.syns_again) == (truth.start, truth.ends, Bracket.exactly(0))


def test_a_reset_on_the_wire():
    """Its RST bounds it. Retransmitted FINs are counted only where both sides sent one."""
    ((it, on_wire),) = observed_refused().with_wire()
    truth = seen_at(Side.CLIENT, truth_of(it, END), on_wire)
    assert truth.ends == [End(Side.SERVER, 60 - 6, 100, is_rst=True)]
    assert truth.fins_again is None


def observed_refused():
    whole = refused()
    return replace(whole, wire=observed(PACKETS_OF_REFUSED, wire=True).wire)


PACKETS_OF_REFUSED = [PACKETS[0], PACKETS[1]._replace(flags=0x14, seq=0)]


def test_one_direction():
    """An interface that only one side's segments pass begins with its first one, and has its end only."""
    truth = replace(truth_of(conversation(), END), answered=Bracket.middle(40, 60))
    client, server = one_way(truth, Side.CLIENT), one_way(truth, Side.SERVER)
    assert (client.start, server.start) == (truth.start, truth.answered)
    assert (client.ends, server.ends) == (truth.ends[:1], truth.ends[1:])
    assert client.ended == server.ended == [Ended.FIN]
    reset = truth_of(connection([RESET, CLOSE_C], [Call("recv", 200, 600, 0, "ECONNRESET"), CLOSE_S]), END)
    assert (one_way(reset, Side.CLIENT).ended, one_way(reset, Side.SERVER).ended) == ([Ended.RST], [])
