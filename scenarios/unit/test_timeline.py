"""Pairing of clients with servers, and timelines as JSON."""

import pytest

from lab.errors import LabError
from lab.tcp import Flow
from lab.timeline import Call, Timeline, pair

FLOW = Flow("192.0.2.1", 40000, "192.0.2.2", 9999)


def client(enter_ns, exit_ns):
    """Return a client of the flow with a connect() between these times."""
    return Timeline("client", FLOW, calls=[Call("connect", enter_ns, exit_ns)])


def server(enter_ns, exit_ns):
    """Return a server of the flow with a sleep and an accept() between these times."""
    return Timeline("server", FLOW.reversed(), calls=[Call("sleep", 0, enter_ns), Call("accept", enter_ns, exit_ns)])


def test_a_flow_used_again_is_paired_in_order_of_use():
    """A client that entered connect() first but returned second comes second."""
    late, quick = client(10, 100), client(20, 30)
    first, second = server(25, 35), server(90, 105)
    connections = pair([late, second, first, quick])
    assert [(it.client, it.server) for it in connections] == [(quick, first), (late, second)]


def test_a_client_that_was_not_accepted_has_no_server():
    """A client is not paired with a server of another flow."""
    other = Timeline("server", Flow("192.0.2.2", 9999, "192.0.2.1", 40001), calls=[Call("accept", 1, 2)])
    (connection,) = pair([client(1, 2), other])
    assert connection.server is None


def test_how_a_side_closes():
    """The first shutdown() or close() sends the FIN. A recv() of 0 bytes reports the peer's FIN, an errno its RST."""
    calls = [
        Call("connect", 0, 1),
        Call("recv", 2, 3, 5),
        Call("recv", 4, 5),
        Call("shutdown", 6, 7),
        Call("close", 8, 9),
    ]
    closed = Timeline("client", FLOW, calls=calls)
    assert (closed.closing, closed.saw_fin, closed.saw_reset, closed.resets) == (calls[3], calls[2], None, False)
    calls = [Call("recv", 0, 1, 0, "ECONNRESET"), Call("linger0", 2, 3), Call("close", 4, 5)]
    reset = Timeline("server", FLOW, calls=calls)
    assert (reset.closing, reset.saw_fin, reset.saw_reset, reset.resets) == (calls[2], None, calls[0], True)
    with pytest.raises(LookupError, match=r"never called shutdown\(\) or close\(\)"):
        _ = client(1, 2).closing


def test_round_trip():
    """The JSON of a timeline gives the same timeline."""
    timeline = server(5, 9)
    assert Timeline.from_json(timeline.to_json()) == timeline


@pytest.mark.parametrize("line", ["", "{}", "[]", '{"role": "client"}', "null"])
def test_other_lines_are_refused(line):
    """Any other line is an error."""
    with pytest.raises(LabError, match="not a timeline"):
        Timeline.from_json(line)


def test_a_missing_call_is_named():
    """The error names the call, the role and the flow."""
    with pytest.raises(LookupError, match=r"the client of 192\.0\.2\.1:40000 .* never called close"):
        client(1, 2).find("close")
