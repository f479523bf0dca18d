"""Brackets for the parts of a request's time, from hand-made timelines."""

import pytest

from lab.tcp import Flow
from lab.timeline import Call, Connection, Timeline
from lab.truth.requests import exchanges
from lab.verdict import Bracket

FLOW = Flow("192.0.2.1", 40000, "192.0.2.2", 9999)


def connection(client, server):
    """Return a connection of these calls: (name, enter, exit, result)."""
    sides = (("client", FLOW, client), ("server", FLOW.reversed(), server))
    return Connection(*(Timeline(role, flow, calls=[Call(*call) for call in calls]) for role, flow, calls in sides))


CLIENT = [
    ("connect", 0, 50),
    ("send", 100, 120, 10),
    ("recv", 130, 400, 5),
    ("recv", 410, 500, 15),
    ("close", 600, 610),
]
SERVER = [("accept", 10, 60), ("recv", 90, 200, 10), ("send", 250, 280, 20), ("close", 700, 710)]


def test_one_request():
    """Each stop is inside its call, and no byte is read before it was written."""
    (exchange,) = exchanges(connection(CLIENT, SERVER))
    assert (exchange.request.size, exchange.reply.size) == (10, 20)
    assert exchange.request.written[:2] == (100, 120)
    assert exchange.request.returned[:2] == (100, 200)
    assert exchange.reply.returned[:2] == (410, 500)
    assert exchange.request.travel[:2] == (0, 100)
    assert exchange.application[:2] == (50, 180)
    assert exchange.round_trip[:2] == (290, 400)
    assert exchange.thinking == Bracket.exactly(0)
    assert exchange.request.waking[:2] == exchange.request.reading[:2] == (0, 100)
    assert exchange.reply.waking[:2] == (0, 90)
    assert exchange.others(Bracket(50, 180, 100)) == Bracket.early(0, 350)


def test_requests_in_pieces():
    """A request in two writes is read at once; the second request has its own calls."""
    client = [("send", 0, 5, 3), ("send", 10, 15, 4), ("recv", 20, 80, 6), ("send", 90, 95, 1), ("recv", 96, 120, 1)]
    server = [("recv", 1, 30, 7), ("send", 40, 45, 2), ("send", 50, 55, 4), ("recv", 60, 99, 1), ("send", 100, 101, 1)]
    first, second = exchanges(connection(client, server))
    assert first.thinking[:2] == (5, 15)
    assert first.request.written[:2] == (10, 15)
    assert (first.reply.first.enter_ns, first.reply.last.enter_ns) == (40, 50)
    assert first.application[:2] == (20, 45)
    assert second.request.returned[:2] == (90, 99)
    assert second.round_trip[:2] == (100 - 95, 30)


def test_a_reader_that_polls():
    """A reader can wake up in poll() before its read(). Only read() copies."""
    server = [SERVER[0], ("poll", 70, 150, 1), ("recv", 160, 200, 10), *SERVER[2:]]
    (exchange,) = exchanges(connection(CLIENT, server))
    assert exchange.request.waking[:2] == (0, 100)
    assert exchange.request.reading[:2] == (0, 40)


def test_a_reader_that_reads_in_parts():
    """The poll() that the request ended can be an earlier one than that right before the last read()."""
    parts = [("poll", 70, 150, 1), ("recv", 155, 160, 4), ("poll", 165, 170, 1), ("recv", 180, 200, 6)]
    (exchange,) = exchanges(connection(CLIENT, [SERVER[0], *parts, *SERVER[2:]]))
    assert exchange.request.waking[:2] == (0, 100)
    before = [("poll", 70, 90, 1), ("recv", 91, 95, 4), ("poll", 165, 170, 1), ("recv", 180, 200, 6)]
    (exchange,) = exchanges(connection(CLIENT, [SERVER[0], *before, *SERVER[2:]]))
    assert exchange.request.waking[:2] == (0, 35)


def test_a_reply_before_the_end_of_the_request():
    """Q2: what the server answers before it has read the whole request is no exchange, and nothing after it is one."""
    early = [SERVER[0], ("recv", 90, 200, 4), ("send", 250, 280, 5), ("recv", 290, 295, 6), ("send", 300, 310, 15)]
    assert exchanges(connection(CLIENT, early)) == []


@pytest.mark.parametrize(
    ("client", "server"),
    [
        (CLIENT[:1], SERVER[:1]),
        ([("connect", 0, 1), ("send", 2, 3, 10), ("recv", 4, 5, 0, "ECONNRESET")], [("accept", 0, 1), ("close", 2, 3)]),
        ([("connect", 0, 1), ("recv", 4, 5, 7)], [("accept", 0, 1), ("send", 2, 3, 7)]),
    ],
    ids=["silence", "reset", "a greeting"],
)
def test_no_request(client, server):
    """Data without a request or without a reply is no exchange. A connection that was not accepted has none."""
    there = connection(client, server)
    assert exchanges(there) == exchanges(Connection(there.client, None)) == []


def test_contradicting_timelines():
    """A byte that was received but not sent is an error."""
    with pytest.raises(LookupError, match="carried byte 9"):
        exchanges(connection(CLIENT, [("recv", 90, 200, 5), *SERVER[2:]]))
