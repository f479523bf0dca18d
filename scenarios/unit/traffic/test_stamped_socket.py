"""Sockets that tell what was done with them, and when: what a connection was is known however early it ends."""

import socket
import struct

from lab.tcp import Flow
from lab.traffic.demo.stamped_socket import StampedSocket


class ResetAtOnce(socket.socket):
    """Connects to a listener that has sent a RST by the time at which connect() returns."""

    listener: socket.socket

    def connect(self, address):
        """Connect, and have the connection reset."""
        super().connect(address)
        child, _ = self.listener.accept()
        child.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        child.close()


def test_a_reset_that_comes_at_once():
    """The kernel does not say any more who the peer was; it was the one that connect() was given."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ResetAtOnce() as raw:
        raw.listener, address = listener, listener.getsockname()
        client = StampedSocket("client", raw)
        assert client.connect(address)
        assert client.timeline.flow == Flow("127.0.0.1", raw.getsockname()[1], *address)
        assert client.recv(1) == b""
        assert client.timeline.calls[-1].error == "ECONNRESET"
