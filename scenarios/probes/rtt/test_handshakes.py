"""RTT samples of handshakes that are not of the network: they are counted apart.

R6 is a row of the corpus of known wrong numbers in docs/truth.md.
"""

import pytest
from support.handshakes import SECOND_ADDRESS, conversing, cross, fast_open, joining
from support.processes import watching

from lab.network.conditions import Conditions
from lab.network.relay import Relay
from lab.network.topology import topology
from lab.probes.rtt.measure import Kind, folded
from lab.recording.recorder import record
from lab.tcp import address_text
from lab.units import MS

ONE_WAY = Conditions(delay_ns=20 * MS)
both_versions = pytest.mark.parametrize("version", [4, 6])


def samples(net, open_and_close):
    """Return the numbers of counted and of distorted RTT samples of the server's sockets, by the peer's address."""
    with record("rtt") as recorder:
        open_and_close()
        net.quiesce()
    rows = folded(recorder.recording.totals["rtt"])
    rows = rows[(rows["netns"] == net.server.inode) & (rows["kind"] == Kind.RTT)]
    return {address_text(row["raddr"].tobytes()): (int(row["count"]), int(row["distorted"])) for row in rows}


@both_versions
def test_an_ordinary_handshake(net, version):
    """R6: the handshake's sample is counted."""
    assert samples(net, lambda: conversing(net, version)) == {net.client.address(version): (1, 0)}


@both_versions
@pytest.mark.parametrize("reuse_port", [False, True])
def test_syn_cookies(net, version, reuse_port):
    """R6: with SYN cookies the kernel does not know when it sent the SYN-ACK."""
    net.server.sysctl("ipv4/tcp_syncookies", 2)
    found = samples(net, lambda: conversing(net, version, reuse_port=reuse_port))
    assert found == {net.client.address(version): (0, 1)}


@both_versions
@pytest.mark.parametrize("wait_s", [0, 0.05])
def test_deferred_accept(net, version, wait_s):
    """R6: with TCP_DEFER_ACCEPT the sample lasts until the client sends data."""
    found = samples(net, lambda: conversing(net, version, defer_s=5, wait_s=wait_s))
    assert found == {net.client.address(version): (0, 1)}


def test_a_joining_subflow(net):
    """R6: the handshake's sample of a joining MPTCP subflow is at least 1 ms. That of the first subflow is true."""

    def join():
        with joining(net):
            pass

    found = samples(net, join)
    assert found[SECOND_ADDRESS][1] == 1
    assert found[net.client.ipv4][1] == 0


def test_fast_open(net):
    """R6: data in the SYN does not distort the handshake's sample."""
    assert samples(net, lambda: fast_open(net)) == {net.client.ipv4: (1, 0)}


def test_crossing_syns():
    """R6: if both sides connect at the same time, the sample is half a round trip: from SYN-ACK to SYN-ACK."""
    with topology(Relay()) as slow:
        slow.conditions(ONE_WAY, ONE_WAY)
        assert samples(slow, lambda: cross(slow)) == {slow.client.ipv4: (0, 1)}


def test_the_live_tool_counts_them_apart(net):
    """R6: --raw shows the number of distorted samples, and no histogram of them."""
    net.server.sysctl("ipv4/tcp_syncookies", 2)
    with watching("rtt", "--raw", "--raddr-hist", "--interval", "600", "--netns", net.server.name) as output:
        conversing(net, 4)
        net.quiesce()
    assert "distorted: 1 samples" in output[1].splitlines()
    assert "Latency" not in output[1]
