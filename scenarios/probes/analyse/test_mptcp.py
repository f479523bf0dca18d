"""MPTCP: the calls on its sockets, and the owners of its subflows.

Q10 and Q11 are rows of the corpus of known wrong numbers.
"""

import os
import subprocess
from pathlib import Path

import pytest
from support.analysed import PORT, analysed, listener_in, of_host, socket_in

from lab.errors import UnsupportedByKernel

IPPROTO_TCP, IPPROTO_MPTCP = 6, 262
SOL_MPTCP, MPTCP_INFO = 284, 1
SECOND_ADDRESS = "192.0.2.101"
both_versions = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture(autouse=True)
def mptcp():
    """Skip on a kernel without MPTCP (CONFIG_MPTCP)."""
    if not Path("/proc/sys/net/mptcp/enabled").exists():
        raise UnsupportedByKernel("this kernel has no MPTCP")


def talk(client, listener, address):
    """Connect, send 3 bytes, receive 4 and close. The other end is the listener's."""
    client.connect((address, PORT))
    with listener.accept()[0] as server:
        client.send(b"a" * 3)
        assert server.recv(9) == b"aaa"
        server.send(b"b" * 4)
        assert client.recv(9) == b"bbbb"
        client.close()
        assert server.recv(9) == b""


@both_versions
@pytest.mark.parametrize("protocol", [IPPROTO_MPTCP, IPPROTO_TCP])
def test_a_conversation(net, version, protocol):
    """Q10, Q11: with an MPTCP listener and a client with MPTCP or plain TCP, each call has its row and its owner."""
    with (
        analysed(net) as rows,
        listener_in(net.server, version, protocol=IPPROTO_MPTCP) as listener,
        socket_in(net.client, version, protocol=protocol) as client,
    ):
        talk(client, listener, net.server.address(version))
    for host, role, calls in (
        (net.client, "client", ["connect", "send 3", "receive 4", "close"]),
        (net.server, "service", ["accept", "receive 3", "send 4", "receive 0", "close"]),
    ):
        mine = of_host(rows, host)
        returns = [row for row in mine if row["returns"]]
        shown = [f"{it['step']} {it['result']}" if it["step"] in ("send", "receive") else it["step"] for it in returns]
        assert shown[: len(calls)] == calls  # then the listener's close()
        assert {row["pid"] for row in mine} == {os.getpid()}
        assert {row["role"] for row in mine} == {role}
        called = {row["skaddr"] for row in mine if row["step"] in ("send", "receive")}
        arrived = {row["mptcp"] for row in mine if row["step"] == "arrived" and row["state"] == "ESTABLISHED"}
        assert arrived == (called if protocol == IPPROTO_MPTCP else {None})
        assert len(called) == 1


def test_two_subflows(net):
    """Q11: both subflows name their MPTCP socket and have its owner, although the kernel opens the second one."""

    def ip(host, *words):
        command = ["nsenter", f"--net=/run/netns/{host.name}", "ip", *words]
        subprocess.run(command, check=True)

    for host in (net.client, net.server):
        ip(host, "mptcp", "limits", "set", "subflows", "1", "add_addr_accepted", "1")
    ip(net.client, "address", "add", f"{SECOND_ADDRESS}/24", "dev", "eth0")
    ip(net.client, "mptcp", "endpoint", "add", SECOND_ADDRESS, "dev", "eth0", "subflow")
    for host in (net.client, net.server):
        mac = {net.client: net.server.mac, net.server: net.client.mac}[host]
        peer = {net.client: net.server.ipv4, net.server: SECOND_ADDRESS}[host]
        ip(host, "neighbour", "replace", peer, "lladdr", mac, "dev", "eth0", "nud", "permanent")
    with (
        analysed(net) as rows,
        listener_in(net.server, protocol=IPPROTO_MPTCP) as listener,
        socket_in(net.client, protocol=IPPROTO_MPTCP) as client,
    ):
        client.connect((net.server.ipv4, PORT))
        with listener.accept()[0] as server:
            client.send(b"a")
            assert server.recv(1) == b"a"
            while subflows(client) < 2:
                pass
    for host, role in ((net.client, "client"), (net.server, "service")):
        mine = of_host(rows, host)
        joined = [
            row
            for row in mine
            if SECOND_ADDRESS in (row["local_address"], row["remote_address"]) and row["state"] != "LISTEN"
        ]
        assert {"arrived", "changed", "destroyed"} <= {row["step"] for row in joined}
        assert {row["mptcp"] for row in joined} == {row["skaddr"] for row in mine if row["step"] in ("send", "receive")}
        assert {row["pid"] for row in joined} == {os.getpid()}
        assert {row["role"] for row in joined} == {role}


def subflows(sock):
    """Return the number of an MPTCP socket's subflows: the first one, and mptcpi_subflows of MPTCP_INFO."""
    return 1 + sock.getsockopt(SOL_MPTCP, MPTCP_INFO, 1)[0]
