"""A suite of another project that uses each fixture of the lab's pytest plugin."""

SUITE = '''
import socket

import pytest

from lab.linux.netns import inside
from lab.network.conditions import Conditions
from lab.network.relay import Relay
from lab.traffic.demo.conversation import Conversation
from lab.units import MS


SILENT = """
name = "silent"
command = ["sh", "-c", "echo ready; exec sleep 60"]
ready.text = "ready"
[[quantity]]
kind = "flows"
"""


def greet(net):
    """Send a greeting from the client to the server, by the suite's own sockets."""
    place = (net.server.address(4), 4321)
    with inside(net.server.name, lambda: socket.create_server(place)) as server:
        client = inside(net.client.name, socket.socket)
        client.connect(place)
        served, _ = server.accept()
        with client, served:
            client.sendall(b"hello")
            return served.recv(99)


def test_net(net):
    assert greet(net) == b"hello"


@pytest.mark.parametrize("net", ["direct"], indirect=True)
def test_another_network(net):
    assert not net.wire
    assert greet(net) == b"hello"


def test_topology(topology):
    one, two = topology(Relay()), topology(network="switch")
    one.conditions(Conditions(delay_ns=1 * MS), Conditions())
    assert greet(one) == b"hello"
    assert len({one.client.name, two.client.name, *two.hosts.values()}) == 2 + len(two.hosts)


def test_observe(observe, net):
    with observe("states") as observed:
        greet(net)
    rows = observed.recording.events["states"]
    assert {net.client.inode, net.server.inode} == {int(row["netns"]) for row in rows}


def test_judge_tool(judge_tool, tmp_path):
    assert judge_tool("lab-states", "S1")["S1"].verdict in ("right", "lost")  # lost beside the load of other scenarios
    (tmp_path / "silent.toml").write_text(SILENT)
    with pytest.raises(pytest.fail.Exception, match="silent, N1: missing"):
        judge_tool(tmp_path / "silent.toml", "N1")


def test_lab(lab):
    lab.judge("states", lab.converse(Conversation(hold_ns=5 * MS)))
'''
