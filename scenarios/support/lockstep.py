"""A client and a server in one thread, for scenarios that act between two messages. Every call is timestamped."""

import socket
import struct
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from lab.linux.netns import inside
from lab.timeline import Connection, pair
from lab.traffic.demo.stamped_socket import StampedSocket
from support.stamped_sockets import FAMILY, accept


class TcpInfo(NamedTuple):
    """RTTs of a socket in microseconds, from `struct tcp_info` (include/uapi/linux/tcp.h)."""

    rtt_us: int
    min_rtt_us: int


@dataclass
class Talk:
    """Both ends of one connection; after the `conversing` block, `connections` holds their timelines."""

    client: StampedSocket
    server: StampedSocket
    raw: socket.socket
    connections: list[Connection] = field(default_factory=list)

    def exchange(self, size):
        """Send a request and receive a reply of the same size."""
        self.client.send(bytes(size))
        self.server.recv(size)
        self.server.send(bytes(size))
        self.client.recv(size)

    def client_info(self):
        """Return the client's TCP_INFO."""
        info = self.raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        return TcpInfo(*(struct.unpack_from("=I", info, offset)[0] for offset in (68, 148)))


@contextmanager
def conversing(net, version=4):
    """Connect the client's host to the server's. At the end of the block, the client closes first."""
    family, address = FAMILY[version], (net.server.address(version), 9999)
    with inside(net.server.name, lambda: socket.create_server(address, family=family)) as listener:
        raw = inside(net.client.name, lambda: socket.socket(family, socket.SOCK_STREAM))
        client = StampedSocket("client", raw)
        assert client.connect(address)
        server = accept(listener)
    talk = Talk(client, server, raw)
    with raw, server.socket:
        yield talk
        client.close()
        server.recv_until_end()
        server.close()
    talk.connections = pair([client.timeline, server.timeline])
