"""Connections whose handshakes are unusual: SYN cookies, TCP_DEFER_ACCEPT, a second MPTCP subflow, crossing SYNs."""

import errno
import select
import socket
import time
from contextlib import ExitStack, contextmanager

from lab.linux.netns import inside, tcp_sockets
from lab.tcp import State
from support.processes import HUNG_S, ip
from support.stamped_sockets import FAMILY

PORT = 9999
IPPROTO_MPTCP = 262
SECOND_ADDRESS = "192.0.2.101"


@contextmanager
def connected(net, version=4, *, protocol=0, defer_s=0, wait_s=0.0, reuse_port=False):
    """Yield a client, its server's accepted socket and the listener, all of this process.

    With `defer_s`, for TCP_DEFER_ACCEPT, the client sends a byte after `wait_s`.
    """
    family, address = FAMILY[version], (net.server.address(version), PORT)
    listener = inside(net.server.name, lambda: socket.socket(family, socket.SOCK_STREAM, protocol))
    client = inside(net.client.name, lambda: socket.socket(family, socket.SOCK_STREAM, protocol))
    with listener, client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse_port)
        if defer_s:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, defer_s)
        listener.bind(address)
        listener.listen()
        client.connect(address)
        if defer_s:
            time.sleep(wait_s)
            client.send(b"x")
        with listener.accept()[0] as server:
            yield client, server, listener


def conversing(net, version, **how):
    """Open a connection, as `connected` does, and close it."""
    with connected(net, version, **how):
        pass


def fast_open(net):
    """Open a connection with data in the SYN (TCP Fast Open), without a cookie (ip-sysctl, tcp_fastopen); close it."""
    net.client.sysctl("ipv4/tcp_fastopen", 0x1 | 0x4)
    net.server.sysctl("ipv4/tcp_fastopen", 0x2 | 0x200)
    address = (net.server.ipv4, PORT)
    with (
        inside(net.server.name, lambda: socket.create_server(address)) as listener,
        inside(net.client.name, socket.socket) as client,
    ):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 1)
        client.sendto(b"x", socket.MSG_FASTOPEN, address)
        with listener.accept()[0] as server:
            assert server.recv(1) == b"x"


def cross(net):
    """Connect two sockets to each other at once, wait until both are connected, and close them.

    The wire needs a delay, so that the SYNs cross.
    """
    hosts = {net.client: net.server, net.server: net.client}
    with ExitStack() as opened:
        ends = [opened.enter_context(inside(host.name, socket.socket)) for host in hosts]
        for end, (host, peer) in zip(ends, hosts.items(), strict=True):
            end.settimeout(0)
            end.bind((host.ipv4, PORT))
            assert end.connect_ex((peer.ipv4, PORT)) == errno.EINPROGRESS
        for end in ends:
            assert select.select([], [end], [], HUNG_S)[1]
            assert end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


@contextmanager
def joining(net):
    """Yield both ends of an MPTCP connection after the client has opened a second subflow."""
    for host in (net.client, net.server):
        ip(host, "mptcp", "limits", "set", "subflow", "1")
    ip(net.client, "address", "add", f"{SECOND_ADDRESS}/24", "dev", "eth0")
    ip(net.server, "neighbour", "add", SECOND_ADDRESS, "lladdr", net.client.mac, "dev", "eth0")
    ip(net.client, "mptcp", "endpoint", "add", SECOND_ADDRESS, "subflow")
    with connected(net, protocol=IPPROTO_MPTCP) as (client, server, _):
        for sender, receiver in ((client, server), (server, client)):
            sender.send(b"x")
            receiver.recv(1)
        for host in (net.client, net.server):
            _await_established(host, 2)
        yield client, server


def _await_established(host, number):
    """Wait until a host has this number of established TCP sockets."""
    deadline = time.monotonic() + HUNG_S
    while sum(found.state is State.ESTABLISHED for found in tcp_sockets(host.name)) < number:
        assert time.monotonic() < deadline, "the second subflow was not established"
        time.sleep(0.001)
