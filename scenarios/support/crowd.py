"""More connections at once than a server's accept queue has room for."""

import socket
import time
from contextlib import ExitStack, contextmanager

from lab.linux.netns import inside
from lab.linux.tcp_counters import counters
from lab.network.conditions import Conditions
from lab.units import MS
from support.handshakes import PORT
from support.processes import HUNG_S
from support.stamped_sockets import FAMILY

SLOW = Conditions(delay_ns=10 * MS)


@contextmanager
def listening(net, version, backlog=5):
    """Yield a listening socket of the server's host."""
    address, family = (net.server.address(version), PORT), FAMILY[version]
    with inside(net.server.name, lambda: socket.create_server(address, family=family, backlog=backlog)) as listener:
        yield listener


def client_of(net, version):
    """Return a socket of the client's host."""
    return inside(net.client.name, lambda: socket.socket(FAMILY[version]))


@contextmanager
def crowd(net, version, number=3):
    """Connect sockets at once to a listener with room for one connection; yield when the second has found no room.

    The wire delays the SYNs, so that each finds room, and their last ACKs do not.
    """
    net.conditions(SLOW, SLOW)
    with listening(net, version, backlog=0), ExitStack() as opened:
        before = overflows(net.server)
        for _ in range(number):
            client = opened.enter_context(client_of(net, version))
            client.settimeout(0)
            client.connect_ex((net.server.address(version), PORT))
        deadline = time.monotonic() + HUNG_S
        while overflows(net.server) == before:
            assert time.monotonic() < deadline, "the accept queue was never full"
            time.sleep(0.001)
        yield


def overflows(host):
    """Return how often an accept queue of a host was full: ListenOverflows (/proc/net/netstat)."""
    return counters(host.name, "netstat", "TcpExt:")["ListenOverflows"]
