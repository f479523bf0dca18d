"""The kernel's own tap of packets (AF_PACKET), to compare with: every frame that a host has received."""

import socket
import struct
from contextlib import ExitStack, contextmanager

from lab.netns import inside
from lab.settle import settle

_ETH_P_ALL, _SOL_PACKET, _PACKET_STATISTICS, _SO_RCVBUFFORCE = 3, 263, 6, 33


@contextmanager
def received_by(*hosts):
    """Sniff at the hosts' interfaces; at the end of the block the yielded list has the frames that came in, with their host."""
    frames = []
    with ExitStack() as stack:
        taps = [(host, stack.enter_context(inside(host.name, _tap))) for host in hosts]
        yield frames
        settle()
        for host, tap in taps:
            _, dropped = struct.unpack("II", tap.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
            assert dropped == 0, "the tap itself has lost frames: it cannot be compared with"
            frames += [(host, frame) for frame in _received(tap)]


def _tap():
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    tap.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 26)
    tap.bind(("eth0", _ETH_P_ALL))
    tap.setblocking(False)  # noqa: FBT003 (the method's only argument)
    return tap


def _received(tap):
    while True:
        try:
            frame, (_, _, kind, *_) = tap.recvfrom(1 << 17)
        except BlockingIOError:
            return
        if kind != socket.PACKET_OUTGOING:
            yield frame
