"""The probe `states` on real connections: its rows against the logs of both applications.

S1 to S7 are rows of the corpus of known wrong numbers in docs/truth.md.
"""

import socket

import numpy as np
import pytest

from lab.arrays import UNKNOWN
from lab.linux.netns import inside
from lab.observation import Observed
from lab.probes.states.measure import transitions
from lab.recording.recorder import record
from lab.tcp import State
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse
from lab.units import MS

both_versions = pytest.mark.parametrize("version", [4, 6])
ACTIVE = ["FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT"]
PASSIVE = ["CLOSE_WAIT", "LAST_ACK", "CLOSE"]


def rows_of(observed, inode):
    """Return the rows of one host's connections, without its listener, in order of time."""
    rows = transitions(observed.recording.events["states"])
    return rows[(rows["netns"] == inode) & (rows["oldstate"] != State.LISTEN) & (rows["newstate"] != State.LISTEN)]


def closing_of(rows):
    """Return the names of the states that follow ESTABLISHED."""
    return [State(row["newstate"]).name for row in rows if row["newstate"] not in (1, 2, 3)]


@both_versions
def test_client_closes_first(lab, version):
    """The client's close() ends ESTABLISHED and starts FIN_WAIT1."""
    observed = lab.converse(Conversation(hold_ns=30 * MS), version=version)
    lab.states(observed)
    assert closing_of(rows_of(observed, lab.net.client.inode)) == ACTIVE
    assert closing_of(rows_of(observed, lab.net.server.inode)) == PASSIVE


@both_versions
def test_server_closes_first(lab, version):
    """The server can be the active side of the close."""
    observed = lab.converse(Conversation(closer="server", hold_ns=30 * MS), version=version)
    lab.states(observed)
    assert closing_of(rows_of(observed, lab.net.client.inode)) == PASSIVE
    assert closing_of(rows_of(observed, lab.net.server.inode)) == ACTIVE


@both_versions
def test_both_close_at_once(lab, version):
    """Each side takes a legal path, and at least one side is in FIN_WAIT1."""
    observed = lab.converse(Conversation(closer="both", hold_ns=5 * MS), version=version, connections=20)
    lab.states(observed)
    by_port = {}
    for row in transitions(observed.recording.events["states"]):
        # The probe records the whole machine, which may have other connections.
        if row["oldstate"] == State.ESTABLISHED and row["netns"] in observed.inodes:
            by_port.setdefault(max(row["lport"], row["rport"]), []).append(State(row["newstate"]))
    assert all(State.FIN_WAIT1 in closings and len(closings) == 2 for closings in by_port.values())


@both_versions
@pytest.mark.parametrize("how", ["close", "shutdown"])
def test_peer_closes_much_later(lab, version, how):
    """S2: FIN_WAIT2 lasts until the peer's FIN, even if close() has replaced the socket with a timewait minisock."""
    observed = lab.converse(Conversation(how=how, linger_ns=150 * MS), version=version)
    checks = lab.states(observed)
    (waiting,) = [check for check in checks if check.quantity == "time from FIN_WAIT1 to TIME_WAIT"]
    assert waiting.measured >= 150 * MS


@both_versions
def test_fin_wait2_times_out(lab, version):
    """S2: if the minisock's timer expires before the peer's FIN, FIN_WAIT2 ends there, without TIME_WAIT."""
    lab.net.client.sysctl("ipv4/tcp_fin_timeout", 1)
    observed = lab.converse(Conversation(linger_ns=1500 * MS), version=version)
    rows = rows_of(observed, lab.net.client.inode)
    assert closing_of(rows) == ["FIN_WAIT1", "FIN_WAIT2", "CLOSE"]
    assert closing_of(rows_of(observed, lab.net.server.inode)) == PASSIVE
    # The timer starts when the minisock is created, by the client's close() or by the acknowledgement of its FIN. The
    # timer counts jiffies, so it may be up to one jiffy short. The server's close() sends its FIN later, when there is
    # no minisock.
    client, server = observed.connections[0].client, observed.connections[0].server
    closed_ns, jiffy_ns = client.find("close").enter_ns, 10 * MS
    assert closed_ns + 1000 * MS - jiffy_ns <= rows["time_ns"][-1] <= server.find("close").enter_ns
    assert rows["duration_ns"][-1] == rows["time_ns"][-1] - rows["time_ns"][-2]


@both_versions
@pytest.mark.parametrize("closer", ["client", "server"])
def test_reset(lab, version, closer):
    """A RST moves both sides from ESTABLISHED to CLOSE."""
    observed = lab.converse(Conversation(closer=closer, how="rst", hold_ns=10 * MS), version=version)
    lab.states(observed)
    for host in (lab.net.client, lab.net.server):
        assert closing_of(rows_of(observed, host.inode)) == ["CLOSE"]


@both_versions
def test_refused(lab, version):
    """A refused connection goes from SYN_SENT to CLOSE during connect()."""
    lab.states(lab.converse(Conversation(), version=version, serve=False, source_port=40404))


def test_refused_without_a_bound_port(lab):
    """S4: the kernel binds a local port after SYN_SENT; the SYN_SENT row still has the port."""
    observed = lab.converse(Conversation(), serve=False)
    rows = rows_of(observed, lab.net.client.inode)
    assert [State(row["newstate"]).name for row in rows] == ["SYN_SENT", "CLOSE"]
    assert rows["lport"][0] == rows["lport"][1] > 0


def test_mapped_addresses(lab):
    """An IPv6 socket that serves IPv4 is reported with its IPv4 addresses."""
    lab.states(lab.converse(Conversation(hold_ns=5 * MS), version=4, listen="::"))


@both_versions
def test_application_delays_show_where_they_belong(lab, version):
    """Delays before accept(), before recv() and before the reply are part of the time in ESTABLISHED."""
    delays = Conversation(before_accept_ns=20 * MS, before_recv_ns=30 * MS, before_reply_ns=40 * MS, think_ns=10 * MS)
    observed = lab.converse(delays, version=version)
    lab.states(observed)
    rows = rows_of(observed, lab.net.client.inode)
    (established,) = rows[rows["oldstate"] == State.ESTABLISHED]
    assert established["duration_ns"] >= 90 * MS


@both_versions
def test_close_with_unread_data_after_half_close(lab, version):
    """S2: a close() that resets the connection in FIN_WAIT2 ends FIN_WAIT2; it is not continued by a minisock."""
    net, address = lab.net, (lab.net.server.address(version), 9999)
    family = {4: socket.AF_INET, 6: socket.AF_INET6}[version]
    with record("states") as recorder:
        with (
            inside(net.server.name, lambda: socket.create_server(address, family=family)) as listener,
            inside(net.client.name, lambda: socket.create_connection(address)) as client,
            listener.accept()[0] as child,
        ):
            client.shutdown(socket.SHUT_WR)
            assert child.recv(1) == b""
            child.send(b"unread")
            assert client.recv(1, socket.MSG_PEEK) == b"u"
            client.close()
        net.quiesce()
    observed = Observed(net.inodes, recorder.recording)
    assert closing_of(rows_of(observed, net.client.inode)) == ["FIN_WAIT1", "FIN_WAIT2", "CLOSE"]
    assert closing_of(rows_of(observed, net.server.inode)) == ["CLOSE_WAIT", "CLOSE"]


def test_200_connections_at_once(lab):
    """All 200 connections are open at the same time; each state sequence is complete, each time in its bracket."""
    with lab.observe(Conversation(), connections=200, pause=True) as observed:
        observed.demo.await_pause()
        observed.demo.resume()
    lab.states(observed)
    assert len(observed.connections) == 200
    clients = [connection.client.calls for connection in observed.connections]
    assert max(calls[0].exit_ns for calls in clients) < min(calls[-1].enter_ns for calls in clients)


def test_probe_attached_in_the_middle(lab):
    """S3: a socket that was open before has an unknown time in its first row, and known times after it."""
    with converse(lab.net, Conversation(), pause=True) as demo:
        demo.await_pause()
        with record("states") as recorder:
            demo.resume()
            lab.net.quiesce()
    rows = transitions(recorder.recording.events["states"])
    for inode, first, states in zip(lab.net.inodes, ("FIN_WAIT1", "CLOSE_WAIT"), (ACTIVE, PASSIVE), strict=True):
        # The server may close its listener during the recording.
        of_host = rows[(rows["netns"] == inode) & (rows["oldstate"] != State.LISTEN)]
        assert [State(row["newstate"]).name for row in of_host] == states
        assert State(of_host["newstate"][0]).name == first
        assert of_host["duration_ns"][0] == UNKNOWN
        assert (of_host["duration_ns"][1:] > 0).all()


def test_rapid_churn(lab):
    """S5: kernel addresses are reused thousands of times, and no socket gets the time of an earlier one."""
    count = 6_000
    # The client connects faster than the server accepts. If the accept queue overflows, the kernel resets connections
    # that both applications consider open and reuses their ports; their truth is unknown.
    lab.net.server.sysctl("core/somaxconn", count)
    # A stray RST must not end TIME_WAIT and free a port early (RFC 1337): the test is about reused kernel addresses,
    # not ports.
    lab.net.client.sysctl("ipv4/tcp_rfc1337", 1)
    # connect() takes even ports first, and tries each of them while all are in TIME_WAIT (__inet_hash_connect()).
    lab.net.client.sysctl("ipv4/ip_local_port_range", f"1024 {2**16 - 1}")
    observed = lab.converse(Conversation(exchanges=0), connections=count, concurrency=4, lossy=True)
    assert observed.recording.lost == {"states": 0}
    rows = transitions(observed.recording.events["states"])
    clients = rows[(rows["netns"] == lab.net.client.inode)]
    assert len(np.unique(clients["skaddr"])) < count, "no kernel address was reused: the test proves nothing"
    lab.many_states(observed)


@pytest.mark.parametrize(("port", "source_port"), [(80, 20480), (20480, 80), (1, 65535), (9999, 3879)])
@both_versions
def test_ports_in_the_right_order(lab, version, port, source_port):
    """S6: ports that are each other's byte swap, and the smallest and largest port, are reported correctly."""
    observed = lab.converse(Conversation(), version=version, port=port, source_port=source_port)
    lab.states(observed)
    assert observed.connections[0].client.flow[1::2] == (source_port, port)


def test_owner_and_never_a_bystander(lab):
    """S7: every owner is the socket's, although the current task is a bystander in most changes (softirq)."""
    observed = lab.converse(Conversation(), connections=20)
    for connection in observed.connections:
        assert connection.client.pid != connection.server.pid
    owners = {
        lab.net.client.inode: (observed.connections[0].client.pid, observed.connections[0].client.comm),
        lab.net.server.inode: (observed.connections[0].server.pid, observed.connections[0].server.comm),
    }
    for inode, (pid, comm) in owners.items():
        rows = rows_of(observed, inode)
        owned = rows[rows["tgid"] > 0]
        assert set(owned["tgid"]) == {pid}
        assert set(owned["comm"]) == {comm.encode()}
        assert {State.LAST_ACK, State.CLOSE} <= set(owned["newstate"]) or State.TIME_WAIT in owned["newstate"]
