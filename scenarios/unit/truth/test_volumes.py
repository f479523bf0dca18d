"""Bounds of packets and bytes on the wire: exact without retransmissions, an interval with some."""

import pytest

from lab.linux.tcp_counters import Sent
from lab.tcp import Flow
from lab.timeline import Call, Connection, Timeline
from lab.truth.volumes import Volumes, segments_sent

CLIENT = Flow("192.0.2.1", 40000, "192.0.2.2", 80)


def timeline(role, flow, *calls):
    """Return a timeline of calls of 1 ns, one every 10 ns. A call is `name`, `name result` or `name ERROR`."""
    found = []
    for number, (name, *rest) in enumerate(call.split() for call in calls):
        outcome = rest[0] if rest else "0"
        result = (int(outcome), "") if outcome.isdecimal() else (0, outcome)
        found.append(Call(name, 10 * number, 10 * number + 1, *result))
    return Timeline(role, flow, calls=found)


def connection(client, server, flow=CLIENT):
    """Return a connection with these calls of each side; without a server it was not accepted."""
    ends = timeline("client", flow, *client), timeline("server", flow.reversed(), *server) if server else None
    return Connection(*ends)


PLAIN = connection(
    ["connect", "send 3000", "recv 500", "close"], ["accept", "recv 3000", "send 500", "recv 0", "close"]
)
RESET = connection(["connect", "send 100", "linger0", "close"], ["accept", "recv 60", "recv ECONNRESET", "close"])
REFUSED = connection(["connect ECONNREFUSED", "close"], None)


def way(*connections, role="client", retransmitted=0):
    return Volumes(list(connections), role, Sent(100, retransmitted, retransmitted // 2), 10_000, 1500)


@pytest.mark.parametrize(("role", "payload"), [("client", 3000), ("server", 500)])
def test_payload_is_what_was_sent_and_read(role, payload):
    """Without retransmissions the payload is exact."""
    assert way(PLAIN, role=role).payload == (payload, payload, payload)
    assert way(PLAIN, PLAIN, role=role).payload == (2 * payload,) * 3


def test_retransmissions_raise_the_upper_bounds():
    """Each retransmission may have carried a full segment of data, a SYN or a FIN."""
    again = way(PLAIN, retransmitted=2)
    assert again.payload == (3000, 6000, 3000)
    assert again.fins == (1, 3, 1)
    assert again.syns == (1, 2, 1)
    assert segments_sent(Sent(100, 2)) == (100, 102, 102)


def test_a_reset_may_overtake_data():
    """Data that the peer read has left; data that it did not read may not have left before the RST. There is no FIN."""
    assert way(RESET).payload == (60, 100, 100)
    assert way(RESET).fins == (0, 0, 0)
    assert way(RESET, role="server").fins == (0, 1, 0)


def test_a_refused_connection():
    """A SYN to the server, a RST back, no FIN and no data."""
    there, back = way(REFUSED), way(REFUSED, role="server")
    assert (there.syns.low, there.packets.low, there.fins.high, there.payload.high) == (1, 1, 0, 0)
    assert (back.syns.high, back.packets.low, back.fins.high) == (0, 1, 0)


def test_packets_are_as_many_as_the_data_needs():
    """3000 bytes need three segments of at most 1460 bytes, plus a SYN; at most as many as the host has sent."""
    assert way(PLAIN).packets == (4, 100, 4)
    v6 = connection(
        ["connect", "send 2921", "close"], ["accept", "recv 2921", "recv 0", "close"], Flow("::2", 1, "::3", 2)
    )
    assert way(v6).packets.low == 1 + 3  # of at most 1440 bytes each
    assert way(v6).headers == (74, 114)
    assert way(PLAIN).headers == (54, 94)


def test_times():
    """The first packet passes inside connect(), the last one no earlier than the last close()."""
    assert way(PLAIN).first() == (0, 1, 0)
    assert way(PLAIN).last() == (30, 10_000, 30)
    assert way(PLAIN, role="server").last() == (40, 10_000, 40)
    assert way(RESET).last().low == 0
