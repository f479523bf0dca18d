"""Others that see packets, to compare with: the kernel's own tap (AF_PACKET), and Wireshark's dumpcap and tshark."""

import signal
import socket
import struct
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lab.netns import inside, path_of
from lab.settle import settle

_ETH_P_ALL, _SOL_PACKET, _PACKET_STATISTICS, _SO_RCVBUFFORCE = 3, 263, 6, 33


@contextmanager
def received_by(*hosts):
    """Sniff at the hosts' interfaces; at the end of the block the yielded list has the frames that came in."""
    frames = []
    with ExitStack() as stack:
        taps = [stack.enter_context(inside(host.name, _tap)) for host in hosts]
        yield frames
        settle()
        for tap in taps:
            _, dropped = struct.unpack("II", tap.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
            assert dropped == 0, "the tap itself has lost frames: it cannot be compared with"
            frames += _received(tap)


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


@contextmanager
def dumpcap(host, path):
    """Have Wireshark's own capture program write what passes a host's interface; the block is given a function that ends it.

    The function waits until `count` packets that match a display filter are in the file, and returns fields of those.
    """
    command = ["nsenter", f"--net={path_of(host.name)}", "dumpcap", "-q", "-B", "64", "-i", "eth0", "-w", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def finish(count, display_filter, fields):
        await_that(lambda: len(tshark(path, display_filter, ["frame.number"])) >= count)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)
        return tshark(path, display_filter, fields)

    try:
        await_that(lambda: inside(host.name, _taps) > 0)
        yield finish
    finally:
        process.kill()
        process.wait()


def tshark(path, display_filter, fields):
    """Read fields of packets in a capture file; a list of rows of text. A file that is cut short is read as far as it goes."""
    command = ["tshark", "-r", str(path), "-Y", display_filter, "-T", "fields"]
    command += [word for field in fields for word in ("-e", field)]
    read = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return [line.split("\t") for line in read.stdout.splitlines()]


def await_that(condition, limit_s=20.0):
    """Wait until a condition holds; fails when it does not in time."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)


def _taps():
    """Count the packet sockets of the calling thread's namespace."""
    return len(Path("/proc/thread-self/net/packet").read_text().splitlines()) - 1
