"""Sockets between the hosts of a network under the probe `analyse`, and the rows that it makes of them."""

import socket
from contextlib import contextmanager

import numpy as np

from lab.linux.netns import inside
from lab.probes.analyse import text
from lab.probes.analyse.measure import joined
from lab.recording.recorder import record
from support.stamped_sockets import FAMILY

PORT = 9999


@contextmanager
def analysed(net):
    """Record `analyse` while the block runs. Afterwards the yielded list holds the rows, as `--json` prints them."""
    rows = []
    with record("analyse", devices=net.devices) as recorder:
        yield rows
    every = joined(recorder.recording.events["analyse"])
    rows += text.as_dicts(every[np.isin(every["netns"], net.inodes)])


def socket_in(host, version=4, kind=socket.SOCK_STREAM, protocol=0):
    """Return a new socket of a host."""
    return inside(host.name, lambda: socket.socket(FAMILY[version], kind, protocol))


def listener_in(host, version=4, port=PORT, protocol=0):
    """Return a listener on all addresses of a host."""
    listener = socket_in(host, version, protocol=protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("", port))
    listener.listen()
    return listener


@contextmanager
def connected(net, version=4, port=PORT):
    """Yield both ends of a connection between the hosts: the client's and the server's socket."""
    with (
        listener_in(net.server, version, port) as listener,
        socket_in(net.client, version) as client,
    ):
        client.connect((net.server.address(version), port))
        with listener.accept()[0] as server:
            yield client, server


def of_host(rows, host, *steps, returned=None):
    """Return the rows of a host, of these steps, and if `returned` is given, the returns or the entries of calls."""
    return [
        row
        for row in rows
        if row["netns"] == host.inode
        and (not steps or row["step"] in steps)
        and (returned is None or row["returns"] is returned)
    ]
