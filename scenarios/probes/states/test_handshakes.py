"""The time in SYN_RECV where the kernel's sample of the handshake is not of the network.

S12 is a row of the corpus of known wrong numbers in docs/truth.md.
"""

import socket
import time

import pytest
from support.handshakes import PORT, SECOND_ADDRESS, conversing, fast_open, joining

from lab.arrays import UNKNOWN
from lab.linux.netns import inside
from lab.probes.states.measure import transitions
from lab.recording.recorder import record
from lab.tcp import State, address_text
from lab.units import MS, SECOND

both_versions = pytest.mark.parametrize("version", [4, 6])


def syn_recv_ns(net, open_and_close):
    """Return the peer's address and the time in SYN_RECV of each accepted socket."""
    with record("states") as recorder:
        open_and_close()
        net.quiesce()
    rows = transitions(recorder.recording.events["states"])
    rows = rows[(rows["netns"] == net.server.inode) & (rows["oldstate"] == State.SYN_RECV)]
    return [(address_text(row["raddr"].tobytes()), int(row["duration_ns"])) for row in rows]


@both_versions
def test_syn_cookies(net, version):
    """S12: with SYN cookies the kernel does not know when it sent the SYN-ACK."""
    net.server.sysctl("ipv4/tcp_syncookies", 2)
    for reuse_port in (False, True):
        found = syn_recv_ns(net, lambda reuse_port=reuse_port: conversing(net, version, reuse_port=reuse_port))
        assert found == [(net.client.address(version), UNKNOWN)]


@both_versions
@pytest.mark.parametrize("wait_s", [0, 0.05])
def test_deferred_accept(net, version, wait_s):
    """S12: with TCP_DEFER_ACCEPT the kernel's sample lasts until the client sends data."""
    found = syn_recv_ns(net, lambda: conversing(net, version, defer_s=5, wait_s=wait_s))
    assert found == [(net.client.address(version), UNKNOWN)]


def test_deferred_accept_of_a_client_that_sends_nothing(net):
    """S12, a limit that the tool states: if the client's FIN ends the handshake, its time lasts until the FIN."""
    wait_ns = 20 * MS
    ((_, duration_ns),) = syn_recv_ns(net, lambda: close_unused(net, wait_ns))
    assert duration_ns >= wait_ns


def close_unused(net, wait_ns):
    """Open a connection to a listener with TCP_DEFER_ACCEPT and close it after a time, without sending data."""
    address = (net.server.ipv4, PORT)
    with inside(net.server.name, lambda: socket.create_server(address)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
        with inside(net.client.name, lambda: socket.create_connection(address)):
            time.sleep(wait_ns / SECOND)
        listener.accept()[0].close()


def test_a_joining_subflow(net):
    """S12: the kernel's sample of a joining MPTCP subflow is at least 1 ms. That of the first subflow is true."""

    def join():
        with joining(net):
            pass

    found = dict(syn_recv_ns(net, join))
    assert set(found) == {net.client.ipv4, SECOND_ADDRESS}
    assert found[SECOND_ADDRESS] == UNKNOWN
    assert found[net.client.ipv4] > 0


def test_fast_open(net):
    """S12: data in the SYN (TCP Fast Open) does not delay the acknowledgement of the SYN-ACK: its time is known."""
    found = syn_recv_ns(net, lambda: fast_open(net))
    assert [peer for peer, _ in found] == [net.client.ipv4]
    assert found[0][1] > 0
