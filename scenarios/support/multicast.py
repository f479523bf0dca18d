"""Multicast and broadcast datagrams that a host also sends itself, as with mDNS."""

import socket
import struct
from contextlib import contextmanager

from lab.linux.netns import inside

PORT = 5353
GROUPS = {"IPv4": "224.0.0.251", "IPv6": "ff02::fb", "broadcast": "255.255.255.255", "of the network": "192.0.2.255"}
_IPV6_MULTICAST_IF, _IPV6_JOIN_GROUP = 17, 20  # include/uapi/linux/in6.h


@contextmanager
def member(host, group):
    """Yield a socket of a host that is a member of a group and sends to it; it receives its own datagrams."""
    ifname = host.device.ifname
    if group.endswith("255"):
        host.knows(group, "ff:ff:ff:ff:ff:ff")  # the hosts' interfaces have no ARP
    with inside(host.name, lambda: socket.socket(_family(group), socket.SOCK_DGRAM)) as sock:
        sock.settimeout(20)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, ifname.encode())
        sock.bind(("", PORT))
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_IF, host.ifindex)
            wanted = socket.inet_pton(socket.AF_INET6, group) + struct.pack("=I", host.ifindex)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_JOIN_GROUP, wanted)
        elif group.startswith("224."):
            wanted = struct.pack("=4s4si", socket.inet_aton(group), bytes(4), host.ifindex)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, wanted)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, wanted)
        yield sock


def send_to_all(sock, group, sizes):
    """Send a datagram of each size to a group, and receive the copies that the host sends itself."""
    for size in sizes:
        sock.sendto(bytes(size), (group, PORT))
        assert len(sock.recv(1 << 16)) == size


def _family(group):
    return socket.AF_INET6 if ":" in group else socket.AF_INET
