"""The probe `duration` on connections whose sequence numbers wrap."""

import os
import socket
from threading import Thread

import pytest
from support.stamped_sockets import FAMILY, accept

from lab.linux.netns import inside
from lab.observation import Observed
from lab.recording.recorder import record
from lab.timeline import Connection
from lab.traffic.demo.stamped_socket import StampedSocket

GB = 10**9
CHUNK = 1 << 20


def discard(sock, size):
    """Receive `size` bytes. With MSG_TRUNC the kernel does not copy them (tcp(7))."""
    buffer = bytearray(CHUNK)
    while size:
        size -= sock.recv_into(buffer, min(size, CHUNK), socket.MSG_TRUNC)


def carry(sender, receiver, size):
    """Send `size` bytes from one socket to the other, out of a file in memory."""
    thread = Thread(target=discard, args=(receiver, size))
    thread.start()
    with open(os.memfd_create("data"), "wb") as file:  # noqa: PTH123 (a descriptor)
        file.truncate(CHUNK)
        while size:
            size -= os.sendfile(sender.fileno(), file.fileno(), 0, min(size, CHUNK))
    thread.join()


@pytest.mark.parametrize(("version", "how"), [(4, "close"), (6, "reset")])
def test_3_gb(lab, version, how):
    """D5: 3 GB are more than half of the sequence numbers; the end of the connection is still its end."""
    net, address = lab.net, (lab.net.server.address(version), 9999)
    with record("duration", devices=net.devices) as recorder:
        listener = inside(net.server.name, lambda: socket.create_server(address, family=FAMILY[version]))
        client = StampedSocket("client", inside(net.client.name, lambda: socket.socket(FAMILY[version])))
        with listener:
            client.connect(address)
            server = accept(listener)
        carry(server.socket, client.socket, 3 * GB)
        if how == "reset":
            server.reset_on_close()
        server.close()
        client.recv_until_end()
        client.close()
        end_ns = net.quiesce()
    lab.judge(
        "duration", Observed(net.inodes, recorder.recording, [Connection(client.timeline, server.timeline)], end_ns)
    )
