"""Other packet captures to compare with: AF_PACKET sockets, and Wireshark's dumpcap and tshark."""

import signal
import socket
import struct
import subprocess
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lab.linux.grace_period import await_grace_period
from lab.linux.netns import inside, path_of
from lab.traffic.crafted.send import send
from lab.traffic.crafted.unusual_frames import EXPERIMENTAL
from support.processes import HUNG_S, started

_ETH_P_ALL, _SOL_PACKET, _PACKET_STATISTICS, _PACKET_AUXDATA, _SO_RCVBUFFORCE = 3, 263, 6, 8, 33
_VLAN_VALID = 1 << 4  # TP_STATUS_VLAN_VALID
_MARK = b"\xff" * 6 + b"\x02\x00\x00\x00\x00\x01" + EXPERIMENTAL.to_bytes(2) + b"the capture ends here"
_FIELDS = ("frame.len", "eth.type", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst")


@contextmanager
def received_by(*hosts):
    """Capture at the hosts' interfaces. After the block, the yielded list holds the frames that came in.

    The frames are as on the wire: a VLAN tag that the kernel removed from a frame is inserted again.
    """
    frames = []
    with ExitStack() as stack:
        taps = [stack.enter_context(inside(host.name, _tap)) for host in hosts]
        yield frames
        await_grace_period()
        for tap in taps:
            _, dropped = struct.unpack("II", tap.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
            assert dropped == 0, "the tap lost frames: its capture is incomplete"
            frames += _received(tap)


def _tap():
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    tap.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 26)
    tap.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
    tap.bind(("eth0", _ETH_P_ALL))
    tap.setblocking(False)  # noqa: FBT003 (the method's only argument)
    return tap


def _received(tap):
    while True:
        try:
            frame, ((_, _, about),), _, (_, _, kind, *_) = tap.recvmsg(1 << 17, 256)
        except BlockingIOError:
            return
        if kind != socket.PACKET_OUTGOING:
            # struct tpacket_auxdata in include/uapi/linux/if_packet.h
            status, tci, tpid = struct.unpack("=I12xHH", about)
            tag = struct.pack("!HH", tpid, tci) if status & _VLAN_VALID else b""
            yield frame[:12] + tag + frame[12:]


@contextmanager
def captured(netns, ifname, path, sender):
    """Capture while the block runs.

    Afterwards the yielded counters hold packets and bytes by (source, destination) of IP. `sender` is the namespace of
    a host whose `eth0` leads to the interface. It sends the frame that ends the capture.
    """
    fields = [word for name in _FIELDS for word in ("-e", name)]
    tshark = ["tshark", "-n", "-l", "-P", "-w", str(path), "-s", "128", "-i", ifname, "-T", "fields", *fields]
    packets, size = Counter(), Counter()
    with started(
        "nsenter", f"--net={path_of(netns)}", *tshark, "-E", "occurrence=f", ready="Capture started"
    ) as process:
        yield packets, size
        send(sender, [_MARK])
        for line in process.stdout:
            # The first lines can be messages of tshark.
            length, ethertype, *addresses = line.rstrip("\n").split("\t") if "\t" in line else ("", "", "")
            if ethertype and int(ethertype, 16) == EXPERIMENTAL:
                break
            if pair := tuple(address for address in addresses if address):
                packets[pair] += 1
                size[pair] += int(length)
        process.terminate()
        process.stdout.read()
        process.wait(timeout=HUNG_S)


@contextmanager
def dumpcap(host, path):
    """Capture at a host's interface with dumpcap, into a file; yield a function that ends the capture.

    The function waits until `count` packets that match a display filter are in the file, and returns fields of these
    packets.
    """
    command = ["nsenter", f"--net={path_of(host.name)}", "dumpcap", "-q", "-B", "64", "-i", "eth0", "-w", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def finish(count, display_filter, fields):
        await_that(lambda: len(tshark(path, display_filter, ["frame.number"])) >= count)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=HUNG_S)
        return tshark(path, display_filter, fields)

    try:
        await_that(lambda: inside(host.name, _taps) > 0)
        yield finish
    finally:
        process.kill()
        process.wait()


def tshark(path, display_filter, fields):
    """Return fields of packets in a capture file: a list of rows of text. An incomplete file is read up to its end."""
    command = ["tshark", "-r", str(path), "-Y", display_filter, "-T", "fields"]
    command += [word for field in fields for word in ("-e", field)]
    read = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HUNG_S)
    return [line.split("\t") for line in read.stdout.splitlines()]


def await_that(condition, limit_s=20.0):
    """Wait until a condition holds. Fail after `limit_s` seconds."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"the condition did not become true within {limit_s} s"
        time.sleep(0.01)


def _taps():
    """Return the number of packet sockets in the namespace of the calling thread."""
    return len(Path("/proc/thread-self/net/packet").read_text(encoding="utf-8").splitlines()) - 1
