"""A VPN in user space: a tun device on each host, and a thread that carries packets between them."""

import fcntl
import os
import select
import struct
import subprocess
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from lab.linux.netns import inside
from lab.network.description import NETWORKS
from lab.network.topology import Host

_TUNSETIFF, _TUNSETIFINDEX, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x400454DA, 0x1, 0x1000
_ADDRESSES = (("198.51.100.1", "2001:db8:7::1"), ("198.51.100.2", "2001:db8:7::2"))


@dataclass
class Tunnel:
    """`net` is the topology with the hosts' tun devices; `carried` has the packets in each direction (to the server)."""

    net: object
    carried: tuple[list, list] = field(default_factory=lambda: ([], []))


@contextmanager
def tunnel(net):
    """Build a tunnel between both hosts for the block."""
    hosts = []
    with ExitStack() as stack:
        fds = []
        for host, (ipv4, ipv6) in zip((net.client, net.server), _ADDRESSES, strict=True):
            hosts.append(Host(host.name, ipv4, ipv6, "", host.ifindex + 100, "tun0", ethernet=False))
            fds.append(inside(host.name, lambda host=hosts[-1]: _tun(host.ifindex)))
            stack.callback(os.close, fds[-1])
            inside(host.name, lambda host=hosts[-1]: _configure(host))
        made = Tunnel(
            replace(net, client=hosts[0], server=hosts[1], target=hosts[1], description=NETWORKS["tun"], interfaces={})
        )
        stop, stopped = os.pipe()
        stack.callback(os.close, stop)
        carrier = threading.Thread(target=_carry, args=(fds, made.carried, stop))
        carrier.start()
        stack.callback(carrier.join)
        stack.callback(os.close, stopped)
        yield made


def _tun(ifindex):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, _TUNSETIFINDEX, struct.pack("=I", ifindex))
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", b"tun0", _IFF_TUN | _IFF_NO_PI))
    return fd


def _configure(host):
    commands = [
        f"address add {host.ipv4}/24 dev tun0",
        f"address add {host.ipv6}/64 dev tun0 nodad",
        "link set tun0 up",
    ]
    for command in commands:
        subprocess.run(["/usr/sbin/ip", *command.split()], check=True)


def _carry(fds, carried, stop):
    others = dict(zip(fds, fds[::-1], strict=True))
    into = dict(zip(fds, carried, strict=True))
    while stop not in (readable := select.select([*fds, stop], [], [])[0]):
        for fd in readable:
            packet = os.read(fd, 1 << 16)
            if packet[0] >> 4 in {4, 6}:  # a tun device takes nothing else (tun_get_user())
                into[fd].append(packet)
                os.write(others[fd], packet)
