"""A VPN in user space: a tun device on each host, and a thread that carries packets between them and keeps each."""

import subprocess
from contextlib import contextmanager
from dataclasses import replace

from lab.linux.netns import inside
from lab.network.description import NETWORKS
from lab.network.topology import Host
from lab.network.tunnel import Tunnel

_ADDRESSES = (("198.51.100.1", "2001:db8:7::1"), ("198.51.100.2", "2001:db8:7::2"))


class Vpn(Tunnel):
    """`net` is the topology with the hosts' tun devices; `carried` has the packets in each direction (to the server)."""

    def __init__(self, net):
        hosts = [
            Host(host.name, ipv4, ipv6, "", host.ifindex + 100, "tun0", ethernet=False)
            for host, (ipv4, ipv6) in zip((net.client, net.server), _ADDRESSES, strict=True)
        ]
        client, server = hosts
        self.net = replace(net, client=client, server=server, target=server, description=NETWORKS["tun"], interfaces={})
        self.carried = ([], [])
        super().__init__(*((host.name, host.ifname, host.ifindex) for host in hosts))

    def carry(self, end, packet):
        """Keep the packet and carry it on."""
        if packet[0] >> 4 in {4, 6}:  # a tun device takes nothing else (tun_get_user())
            self.carried[end].append(packet)
            super().carry(end, packet)


@contextmanager
def tunnel(net):
    """Build a tunnel between both hosts for the block."""
    vpn = Vpn(net)
    try:
        for host in (vpn.net.client, vpn.net.server):
            inside(host.name, lambda host=host: _configure(host))
        yield vpn
    finally:
        vpn.remove()


def _configure(host):
    commands = [
        f"address add {host.ipv4}/24 dev {host.ifname}",
        f"address add {host.ipv6}/64 dev {host.ifname} nodad",
        f"link set {host.ifname} up",
    ]
    for command in commands:
        subprocess.run(["/usr/sbin/ip", *command.split()], check=True)
