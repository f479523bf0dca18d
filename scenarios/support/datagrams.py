"""Numbered UDP datagrams between the hosts, with times before and after."""

import socket
import struct
import time
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import numpy as np

from lab.linux.netns import inside
from lab.network.frame_log import Fate
from support.processes import HUNG_S

PORT = 7777
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
PAYLOAD_AT = {4: 14 + 20 + 8, 6: 14 + 40 + 8}


class Ping(NamedTuple):
    """Times of a datagram and its answer: before the first was sent, after it arrived, after the answer arrived."""

    sent_ns: int
    seen_ns: int
    back_ns: int


class Ends:
    """A UDP socket on each host, connected to each other."""

    def __init__(self, client, server):
        self.client, self.server = client, server

    def ping(self):
        """Send a datagram to the server and one back; return the times."""
        sent_ns = time.monotonic_ns()
        self.client.send(b"ping")
        self.server.recv(100)
        seen_ns = time.monotonic_ns()
        self.server.send(b"pong")
        self.client.recv(100)
        return Ping(sent_ns, seen_ns, time.monotonic_ns())

    def send(self, count, size=64):
        """Send numbered datagrams to the server without a pause."""
        for number in range(count):
            self.client.send(struct.pack("!I", number).ljust(size, b"."))

    def received(self, count):
        """Return the numbers of the next `count` datagrams at the server.

        If there is a further datagram, it is appended, so that a comparison fails.
        """
        numbers = [struct.unpack("!I", self.server.recv(65536)[:4])[0] for _ in range(count)]
        self.server.settimeout(0)
        try:
            return [*numbers, "and", self.server.recv(100)]
        except BlockingIOError:
            return numbers
        finally:
            self.server.settimeout(HUNG_S)


@contextmanager
def ends(net, version=4):
    """Open a socket on each host."""
    with ExitStack() as stack:
        sockets = []
        for host in (net.client, net.server):
            end = stack.enter_context(inside(host.name, lambda: socket.socket(FAMILY[version], socket.SOCK_DGRAM)))
            end.settimeout(HUNG_S)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            end.bind((host.address(version), PORT))
            sockets.append(end)
        for end, peer in zip(sockets, reversed(sockets), strict=True):
            end.connect(peer.getsockname())
        yield Ends(*sockets)


def log_of(net, arrived, *, waiting=0):
    """Wait until `arrived` frames came to the wire and it holds at most `waiting` of them; return its log."""
    deadline = time.monotonic() + HUNG_S
    while True:
        log = net.link.log()
        # A copy has a record of its own, but is not a further frame.
        known = len(np.unique(log.frames[["direction", "ordinal"]])) + log.waiting
        if known >= arrived and log.waiting <= waiting:
            return log
        assert time.monotonic() < deadline, f"{known} of {arrived} frames arrived, {log.waiting} are waiting"
        time.sleep(0.001)


def numbers_of(frames, version=4):
    """Return the numbers of the datagrams in a log, from the heads of their frames."""
    at = PAYLOAD_AT[version]
    return [int.from_bytes(bytes(head[at : at + 4])) for head in frames["head"]]


def with_fate(frames, fate):
    """Return the frames with one fate."""
    assert fate in Fate
    return frames[frames["fate"] == fate]
