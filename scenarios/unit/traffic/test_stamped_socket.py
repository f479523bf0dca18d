"""Stamped sockets: the timeline has the flow of a connection even if it is reset at once."""

import socket
import struct

from lab.tcp import Flow
from lab.traffic.demo.stamped_socket import StampedSocket


class ResetAtOnce(socket.socket):
    """A socket whose peer has sent a RST before connect() returns."""

    listener: socket.socket

    def connect(self, address):
        """Connect, and reset the connection at the listener."""
        super().connect(address)
        child, _ = self.listener.accept()
        child.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        child.close()


def test_a_reset_that_comes_at_once():
    """getpeername() fails after the RST, so the flow has the address that was passed to connect()."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ResetAtOnce() as raw:
        raw.listener, address = listener, listener.getsockname()
        client = StampedSocket("client", raw)
        assert client.connect(address)
        assert client.timeline.flow == Flow("127.0.0.1", raw.getsockname()[1], *address)
        assert client.recv(1) == b""
        assert client.timeline.calls[-1].error == "ECONNRESET"
