"""The connect time of an accepted socket where the kernel's sample of the handshake is not of the network."""

import pytest
from support import handshakes
from support.analysed import analysed, of_host

both_versions = pytest.mark.parametrize("version", [4, 6])


def connect_time_ns(net, version, **how):
    """Return the connect time that `analyse` shows for the accepted socket of a connection."""
    with analysed(net) as rows:
        with handshakes.connected(net, version, **how):
            pass
        net.quiesce()
    (opened,) = [
        row for row in of_host(rows, net.server) if (row["oldstate"], row["state"]) == ("SYN_RECV", "ESTABLISHED")
    ]
    return opened["connect_time_ns"]


@both_versions
def test_syn_cookies(net, version):
    """S12: with SYN cookies the kernel does not know when it sent the SYN-ACK."""
    net.server.sysctl("ipv4/tcp_syncookies", 2)
    assert connect_time_ns(net, version) is None


@both_versions
def test_deferred_accept(net, version):
    """S12: with TCP_DEFER_ACCEPT the kernel's sample lasts until the client sends data."""
    assert connect_time_ns(net, version, defer_s=5, wait_s=0.05) is None


@both_versions
def test_usual_handshake(net, version):
    """A handshake without either has its time."""
    assert connect_time_ns(net, version) > 0
