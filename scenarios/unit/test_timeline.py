"""Which client met which server, from what both of them stamped."""

import pytest

from lab.errors import LabError
from lab.tcp import Flow
from lab.timeline import Call, Timeline, pair

FLOW = Flow("192.0.2.1", 40000, "192.0.2.2", 9999)


def client(enter_ns, exit_ns):
    """Make a client of the one flow that connected between these times."""
    return Timeline("client", FLOW, calls=[Call("connect", enter_ns, exit_ns)])


def server(enter_ns, exit_ns):
    """Make its server, which accepted between these times after a sleep."""
    return Timeline("server", FLOW.reversed(), calls=[Call("sleep", 0, enter_ns), Call("accept", enter_ns, exit_ns)])


def test_a_flow_used_again_meets_in_the_order_of_use():
    """A client that was held up before its connect() came second, although its first stamp is the earlier one."""
    held_up, quick = client(10, 100), client(20, 30)
    first, second = server(25, 35), server(90, 105)
    connections = pair([held_up, second, first, quick])
    assert [(it.client, it.server) for it in connections] == [(quick, first), (held_up, second)]


def test_a_client_that_nobody_accepted_has_no_server():
    """A refused connection stands alone, and a server of another flow is not its own."""
    other = Timeline("server", Flow("192.0.2.2", 9999, "192.0.2.1", 40001), calls=[Call("accept", 1, 2)])
    (connection,) = pair([client(1, 2), other])
    assert connection.server is None


def test_round_trip():
    """A timeline survives its way through the pipe."""
    timeline = server(5, 9)
    assert Timeline.from_json(timeline.to_json()) == timeline


@pytest.mark.parametrize("line", ["", "{}", "[]", '{"role": "client"}', "null"])
def test_what_is_no_timeline_is_refused(line):
    """Anything else is a clear error."""
    with pytest.raises(LabError, match="not a timeline"):
        Timeline.from_json(line)


def test_a_call_that_was_never_made_is_named():
    """Asking for a call that is not there says whose it was."""
    with pytest.raises(LookupError, match=r"the client of 192\.0\.2\.1:40000 .* never called close"):
        client(1, 2).find("close")
