"""Brackets of the segments' arrivals, from hand-made timelines."""

import pytest

from lab.tcp import Flow
from lab.timeline import Call, Connection, Timeline
from lab.truth.directions import both_directions, connections_in_time
from lab.verdict import Bracket

FLOW = Flow("192.0.2.1", 40000, "192.0.2.2", 9999)
CLIENT = [Call("connect", 10, 20), Call("send", 30, 40, 100), Call("recv", 41, 80, 60), Call("recv", 81, 90, 40)]
SERVER = [Call("accept", 5, 25), Call("recv", 26, 50, 100), Call("send", 60, 70, 100)]
END = 1000


def connection(client, server=None):
    sides = Timeline("client", FLOW, calls=client), Timeline("server", FLOW.reversed(), calls=server or [])
    return Connection(sides[0], sides[1] if server else None)


def test_a_connection_that_is_closed():
    """SYN and SYN-ACK are inside connect(), data is between send() and recv(), a FIN between close() and recv()."""
    closed = connection(
        [*CLIENT, Call("close", 100, 110)], [*SERVER, Call("recv", 71, 120, 0), Call("close", 130, 140)]
    )
    to_server, to_client = both_directions(closed, END)
    assert to_server.flow == to_client.flow.reversed() == FLOW
    assert to_server.opening == to_client.opening == Bracket.early(10, 20)
    assert to_server.first_data == to_server.last_data == Bracket.early(30, 50)
    assert to_client.first_data == Bracket.early(60, 80)
    assert to_client.last_data == Bracket.early(60, 90)
    assert to_server.payload == to_client.payload == Bracket.exactly(100)
    assert to_server.ends == to_client.ends == ["FIN"]
    assert to_server.end == Bracket.early(100, 120)
    assert to_client.end == Bracket.early(130, END)


def test_a_connection_that_is_reset():
    """A close() after SO_LINGER 0 sends a RST. The other side then sends no end of its own."""
    client = [*CLIENT, Call("linger0", 95, 96), Call("close", 100, 110)]
    server = [*SERVER, Call("recv", 71, 120, 0, "ECONNRESET"), Call("close", 130, 140)]
    to_server, to_client = both_directions(connection(client, server), END)
    assert to_server.ends == ["RST"]
    assert to_server.end == Bracket.early(100, 120)
    assert to_client.ends == [""]


def test_both_reset():
    """Either RST can come first, and the other may not be sent."""
    client = [*CLIENT, Call("linger0", 95, 96), Call("close", 100, 110)]
    server = [*SERVER, Call("linger0", 95, 96), Call("close", 100, 110)]
    assert [direction.ends for direction in both_directions(connection(client, server), END)] == [
        ["RST", ""],
        ["RST", ""],
    ]


def test_data_that_was_not_read():
    """Data that was sent but not read may have arrived. The time of the last data is unknown."""
    client = [*CLIENT[:2], Call("linger0", 45, 46), Call("close", 50, 60)]
    server = [SERVER[0], Call("recv", 26, 50, 30), Call("close", 130, 140)]
    to_server, _ = both_directions(connection(client, server), END)
    assert to_server.payload == Bracket.late(30, 100)
    assert to_server.first_data == Bracket.early(30, 50)
    assert to_server.last_data is None


def test_refused():
    """A SYN to the server and a RST to the client, both inside connect()."""
    refused = connection([Call("connect", 10, 20, 0, "ECONNREFUSED"), Call("close", 30, 40)])
    to_server, to_client = both_directions(refused, END)
    assert (to_server.opening, to_server.ends) == (Bracket.early(10, 20), [""])
    assert (to_client.opening, to_client.ends, to_client.end) == (None, ["RST"], Bracket.early(10, 20))


def test_neither_accepted_nor_refused():
    """A connection that was not answered has no bracket."""
    with pytest.raises(LookupError, match="was not accepted"):
        both_directions(connection([Call("connect", 10, 20, 0, "ETIMEDOUT")]), END)


def test_a_flow_that_is_used_again():
    """A flow belongs to a connection until the next connection's connect()."""
    first, second = (connection([Call("connect", start, start + 10)]) for start in (100, 200))
    assert [(since_ns, until_ns) for _, since_ns, until_ns in connections_in_time([second, first])] == [
        (0, 200),
        (200, 1 << 63),
    ]
