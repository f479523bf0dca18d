"""The probe `states` and sockets that open a second connection.

S8 is a row of the corpus of known wrong numbers in docs/truth.md.
"""

import ctypes
import errno
import socket

import pytest
from support.processes import parsed, watching
from support.stamped_sockets import FAMILY

from lab.arrays import UNKNOWN
from lab.linux.netns import inside
from lab.probes.states.measure import transitions
from lab.recording.recorder import record
from lab.tcp import Flow, State

both_versions = pytest.mark.parametrize("version", [4, 6])
AF_UNSPEC = bytes(16)
PORT, CLOSED_PORT = 9999, 9998


def connects_again(net, version, *, refused):
    """Connect a socket twice: first to a closed port, or to the server and then to nobody. Return both local ports."""
    family, address = FAMILY[version], net.server.address(version)
    ports = []
    with (
        inside(net.server.name, lambda: socket.create_server((address, PORT), family=family)) as listener,
        inside(net.client.name, lambda: socket.socket(family)) as client,
    ):
        if refused:
            assert client.connect_ex((address, CLOSED_PORT)) == errno.ECONNREFUSED
        else:
            client.connect((address, PORT))
            ports.append(client.getsockname()[1])
            disconnect(client)
        client.connect((address, PORT))
        ports.append(client.getsockname()[1])
        client.close()
        for _ in ports:
            listener.accept()[0].close()
    net.quiesce()
    return ports


def disconnect(sock):
    """Call connect(AF_UNSPEC), which Python's sockets do not offer."""
    assert ctypes.CDLL(None).connect(sock.fileno(), AF_UNSPEC, len(AF_UNSPEC)) == 0


@both_versions
@pytest.mark.parametrize("refused", [True, False], ids=["after a refusal", "after AF_UNSPEC"])
def test_a_second_connection_has_its_own_port_and_time(net, version, refused):
    """S8: the second SYN_SENT has the new ends, and its time is known."""
    with record("states") as recorder:
        ports = connects_again(net, version, refused=refused)
    rows = transitions(recorder.recording.events["states"])
    rows = rows[rows["netns"] == net.client.inode]
    (second,) = rows[(rows["newstate"] == State.SYN_SENT)][1:]
    assert len(rows[rows["newstate"] == State.SYN_SENT]) == 2
    flow = Flow(net.client.address(version), ports[-1], net.server.address(version), PORT)
    assert Flow.of(second, "l", "r") == flow
    (established,) = rows[(rows["newstate"] == State.ESTABLISHED)][-1:]
    assert Flow.of(established, "l", "r") == flow
    assert established["duration_ns"] == established["time_ns"] - second["time_ns"]
    assert second["duration_ns"] == UNKNOWN


def test_the_live_tool_shows_the_second_port(net):
    """S8: the live tool does not show the port of the first connection for the second one."""
    with watching("states", "--json", "--netns", net.client.name) as output:
        first, second = connects_again(net, 4, refused=False)
    rows = parsed(output)
    seen = [(row["newstate"], row["local_port"]) for row in rows]
    assert first != second
    assert all(lport in {None, first} for _, lport in seen[:3])
    assert all(lport in {None, second} for _, lport in seen[3:])
    assert [row["duration_ns"] is None for row in rows[3:5]] == [True, False]
