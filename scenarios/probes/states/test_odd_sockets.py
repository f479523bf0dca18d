"""The probe `states` on odd sockets: one that connects to itself, SYNs that cross, a peer that vanishes."""

import errno
import os
import socket

import pytest
from support.handshakes import PORT, connected, cross
from support.processes import ip

from lab.linux.netns import inside
from lab.network.conditions import Conditions
from lab.network.relay import Relay
from lab.network.topology import topology
from lab.probes.states.measure import transitions
from lab.recording.recorder import record
from lab.tcp import State
from lab.units import MS

ONE_WAY_NS = 20 * MS


def rows_of(recorder, host):
    """Return the rows of a host's only connection."""
    rows = transitions(recorder.recording.events["states"])
    return rows[(rows["netns"] == host.inode) & (rows["oldstate"] != State.LISTEN) & (rows["newstate"] != State.LISTEN)]


def names(rows):
    """Return the names of the states that the rows enter."""
    return [State(row["newstate"]).name for row in rows]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_socket_that_connects_to_itself(net, address):
    """One socket takes both sides' part: SYN and FIN cross."""

    def connect():
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
            sock.bind((address, PORT))
            sock.connect((address, PORT))
            sock.send(b"x")
            assert sock.recv(1) == b"x"

    with record("states") as recorder:
        inside(net.client.name, connect)
        net.quiesce()
    rows = rows_of(recorder, net.client)
    assert names(rows) == ["SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT1", "CLOSING", "TIME_WAIT"]
    assert rows["tgid"].tolist() == [os.getpid(), 0, 0, *[os.getpid()] * 3]
    assert (rows["duration_ns"][1:] > 0).all()
    assert set(rows["lport"]) == set(rows["rport"]) == {PORT}


def test_crossing_syns():
    """Each side is in SYN_SENT until the peer's SYN arrives, and in SYN_RECV until its SYN-ACK does."""
    one_way = Conditions(delay_ns=ONE_WAY_NS)
    with topology(Relay()) as net:
        net.conditions(one_way, one_way)
        with record("states") as recorder:
            cross(net)
            net.quiesce()
        for host in (net.client, net.server):
            rows = rows_of(recorder, host)
            assert names(rows)[:3] == ["SYN_SENT", "SYN_RECV", "ESTABLISHED"]
        first, second = (rows_of(recorder, host)["time_ns"] for host in (net.client, net.server))
        assert min(first[1] - second[0], second[1] - first[0]) >= ONE_WAY_NS
        assert min(first[2] - second[1], second[2] - first[1]) >= ONE_WAY_NS


def lose_all(net):
    """Set the server's interface down: nothing answers the client any more."""
    ip(net.server, "link", "set", "eth0", "down")


def test_a_peer_that_vanishes(net):
    """TCP_USER_TIMEOUT ends the connection by a timer: no process is the owner of that change."""
    timeout_ms = 300
    with connected(net) as (client, _, _), record("states") as recorder:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
        lose_all(net)
        client.send(b"x")
        with pytest.raises(OSError, match="timed out") as ended:
            client.recv(1)
    assert ended.value.errno == errno.ETIMEDOUT
    (row,) = rows_of(recorder, net.client)
    assert (State(row["oldstate"]), State(row["newstate"]), int(row["tgid"])) == (State.ESTABLISHED, State.CLOSE, 0)
