"""Frames made by hand, sent as they are; and a capture by tshark, which knows nothing of the lab."""

import socket
import struct
from collections import Counter
from contextlib import contextmanager

from processes import started

from lab.netns import inside, path_of

EXPERIMENTAL = 0x88B5  # IEEE 802, local experimental ethertype
_MARK = b"\xff" * 6 + b"\x02\x00\x00\x00\x00\x01" + EXPERIMENTAL.to_bytes(2, "big") + b"the capture ends here"
_SOL_PACKET, _PACKET_VNET_HDR = 263, 15
_FIELDS = ("frame.len", "eth.type", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst")


def send(netns, frames, ifname="eth0", *, as_machine=False):
    """Send frames from an interface of a namespace, in their order.

    `as_machine`: as a virtual machine does, each frame behind a `struct virtio_net_hdr`.
    """
    with inside(netns, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as sock:
        sock.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, as_machine)
        sock.bind((ifname, 0))
        for frame in frames:
            sock.send(frame)


def datagrams(flows, *, size=0):
    """Ethernet frames of UDP datagrams, one for each number: ports and addresses tell the flows apart. Nobody answers them."""
    for flow in flows:
        udp = struct.pack("!HHHH", 1024 + flow % 40_000, 53, 8 + size, 0) + bytes(size)
        source, destination = (f"198.51.{100 + flow // 40_000}.1", "203.0.113.1")
        ip = struct.pack(
            "!BBHHHBBH4s4s",
            0x45,
            0,
            20 + len(udp),
            0,
            0,
            1,
            17,
            0,
            socket.inet_aton(source),
            socket.inet_aton(destination),
        )
        yield bytes(12) + b"\x08\x00" + ip + udp


@contextmanager
def captured(netns, ifname, path, sender):
    """Capture around a block; afterwards the yielded counters hold packets and bytes by (source, destination) of IP.

    `sender` is the namespace of a host whose `eth0` leads to the interface: the frame that ends the capture comes from there.
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
            # The first lines may still be messages of tshark's own.
            length, ethertype, *addresses = line.rstrip("\n").split("\t") if "\t" in line else ("", "", "")
            if ethertype and int(ethertype, 16) == EXPERIMENTAL:
                break
            if pair := tuple(address for address in addresses if address):
                packets[pair] += 1
                size[pair] += int(length)
        process.terminate()
        process.stdout.read()
        process.wait(timeout=30)
