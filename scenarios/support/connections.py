"""TCP connections whose both ends are sockets of this process."""

import socket
from contextlib import contextmanager

from lab.linux.netns import inside

PORT = 9999


@contextmanager
def connection(client, server, address):
    """Yield the sockets of a connection between two network namespaces: the client's, and the one of `address`."""
    with (
        inside(server, lambda: socket.create_server((address, PORT))) as listener,
        inside(client, lambda: socket.create_connection((address, PORT))) as near,
        listener.accept()[0] as far,
    ):
        yield near, far
