"""A client and a server in one thread, for scenarios that act between one message and the next; every call is stamped."""

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
    """What the kernel says of a socket (`struct tcp_info` in include/uapi/linux/tcp.h), times in microseconds."""

    rtt_us: int
    min_rtt_us: int


@dataclass
class Talk:
    """Both ends of one connection, and after the `conversing` block what they know."""

    client: StampedSocket
    server: StampedSocket
    raw: socket.socket
    connections: list[Connection] = field(default_factory=list)

    def exchange(self, size):
        """Send a request and wait for the reply to it, of the same size."""
        self.client.send(bytes(size))
        self.server.recv(size)
        self.server.send(bytes(size))
        self.client.recv(size)

    def client_info(self):
        """Ask the kernel for the client's TCP_INFO."""
        info = self.raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        return TcpInfo(*(struct.unpack_from("=I", info, offset)[0] for offset in (68, 148)))


@contextmanager
def conversing(net, version=4):
    """Connect the client's host with the server's; at the end the client closes first."""
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
