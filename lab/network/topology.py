"""Two hosts and the wire between them, built from network namespaces: `client | wire | server`.

    client            wire             server
    eth0  ==========  client =bridge= server  ==========  eth0

Namespaces are named after the instance, so instances do not collide. Addresses are from the documentation ranges (RFC
5737, RFC 3849). Neighbour entries are permanent and the kernels send nothing on their own, so the only frames on the
wire are those of the scenario.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_NODAD

from lab.ebpf.interface import Device
from lab.errors import LabError
from lab.linux.grace_period import await_backlogs
from lab.linux.instance import Instance
from lab.linux.netns import create, inode_of, inside, remove, tcp_sockets
from lab.network.conditions import Change, Conditions
from lab.network.link import SIDES, Bridge, Link, Place
from lab.tcp import State

ETHERNET_MTU = 1500
CLIENT_MAC, SERVER_MAC = "02:00:00:00:00:c1", "02:00:00:00:00:5e"
_topologies = count()
_LASTING = (State.LISTEN, State.TIME_WAIT)


@dataclass(frozen=True)
class Host:
    """A host at one end of the wire: a namespace with the device `eth0` and one address of each IP version."""

    name: str
    ipv4: str
    ipv6: str
    mac: str
    ifindex: int  # of eth0; it differs between the hosts, so the ifindex of an event identifies the host

    @property
    def inode(self) -> int:
        """Inode number of the namespace, the form in which events identify it."""
        return inode_of(self.name)

    @property
    def device(self) -> Device:
        """The host's interface, as an attach point for programs."""
        return Device("eth0", self.ifindex, self.name, self.inode)

    def address(self, version: int) -> str:
        """Return the address of IP version 4 or 6."""
        return {4: self.ipv4, 6: self.ipv6}[version]

    def knows(self, address: str, mac: str) -> None:
        """Add a permanent neighbour entry: the host sends packets for `address` to `mac` without address resolution."""

        def pin() -> None:
            with IPRoute() as netlink:
                netlink.neigh("replace", dst=address, lladdr=mac, ifindex=self.ifindex, state="permanent")

        inside(self.name, pin)

    def sysctl(self, path: str, value: object) -> None:
        """Write `/proc/sys/net/<path>` in the host's namespace."""
        inside(self.name, lambda: _sysctl(path, value))


@dataclass(frozen=True)
class Topology:
    """Two hosts, and the namespace and link of the wire between them."""

    client: Host
    server: Host
    wire: str
    link: Link

    def conditions(self, to_server: Conditions, to_client: Conditions) -> Change:
        """Change the conditions of the wire and return when they changed."""
        return self.link.apply(to_server, to_client)

    @property
    def inodes(self) -> tuple[int, int]:
        """Inode numbers of both hosts' namespaces."""
        return self.client.inode, self.server.inode

    @property
    def devices(self) -> tuple[Device, Device]:
        """Both hosts' interfaces."""
        return self.client.device, self.server.device

    def quiesce(self, limit_s: float = 20.0) -> int:
        """Wait until neither host has an open connection, and return that time (`CLOCK_MONOTONIC`, ns).

        A minisock counts as closed, except in FIN_WAIT2, where the peer has not closed yet. The kernel has finished all
        work on these connections when this returns. Raises `LabError` with the remaining sockets after `limit_s`.
        """
        deadline = time.monotonic() + limit_s
        while left := [
            s for host in (self.client, self.server) for s in tcp_sockets(host.name) if s.state not in _LASTING
        ]:
            if time.monotonic() > deadline:
                sockets = ", ".join(f"{s.local} -> {s.remote} {s.state.name}" for s in left[:3])
                raise LabError(f"{len(left)} connections did not end within {limit_s:g} s, first {sockets}")
            time.sleep(0.001)
        await_backlogs()
        # Frames that the wire still holds arrive later, and a socket in TIME_WAIT may answer them.
        while waiting := self.link.waiting():
            if time.monotonic() > deadline:
                raise LabError(f"{waiting} frames were still on the wire after {limit_s:g} s: give it a shorter delay")
            time.sleep(0.001)
            await_backlogs()
        return time.monotonic_ns()


@contextmanager
def topology(link: Link | None = None, *, mtu: int = ETHERNET_MTU) -> Iterator[Topology]:
    """Build the network for the block, then remove it. The default link is a bridge; every device has this `mtu`."""
    instance, number = Instance.current(), next(_topologies)
    prefix = f"lab-{instance.name}-{number}"
    net = Topology(
        client=Host(f"{prefix}-client", "192.0.2.1", "2001:db8::1", CLIENT_MAC, 101),
        server=Host(f"{prefix}-server", "192.0.2.2", "2001:db8::2", SERVER_MAC, 102),
        wire=f"{prefix}-wire",
        link=link or Bridge(),
    )
    with ExitStack() as undo:
        for name in (net.wire, net.client.name, net.server.name):
            undo.callback(remove, name)
            create(name)
        undo.callback(net.link.remove)
        _build(net, mtu)
        yield net


def _build(net: Topology, mtu: int) -> None:
    ends = ((net.client, net.server, "client"), (net.server, net.client, "server"))
    for name in (net.wire, net.client.name, net.server.name):
        inside(name, _stay_silent)
    for host, peer, side in ends:
        inside(host.name, partial(_configure, host, peer, net.wire, side, mtu))
    inside(net.wire, _bypass_firewall)
    inside(net.wire, _raise_sides)
    net.link.install(Place(net.wire, (net.client.name, net.server.name)))
    for host, _, _ in ends:
        inside(host.name, partial(_await_carrier, host))


def _configure(host: Host, peer: Host, wire: str, side: str, mtu: int) -> None:
    """Create a veth pair from a host to the wire, and configure the host's addresses and neighbour entries."""
    with IPRoute() as netlink:
        mine = {"ifname": "eth0", "index": host.ifindex, "address": host.mac, "mtu": mtu}
        netlink.link("add", kind="veth", **mine, peer={"ifname": side, "net_ns_fd": wire, "mtu": mtu})
        (loopback,) = netlink.link_lookup(ifname="lo")
        netlink.link("set", index=loopback, state="up")
        # An interface without address resolution joins no solicited-node group (addrconf_join_solict()), so it sends no
        # MLD reports.
        netlink.link("set", index=host.ifindex, arp=False)
        # Duplicate address detection would delay IPv6 by a second.
        netlink.addr("add", index=host.ifindex, address=host.ipv4, prefixlen=24)
        netlink.addr("add", index=host.ifindex, address=host.ipv6, prefixlen=64, flags=IFA_F_NODAD)
        netlink.link("set", index=host.ifindex, state="up")
        for address in (peer.ipv4, peer.ipv6):
            netlink.neigh("add", dst=address, lladdr=peer.mac, ifindex=host.ifindex, state="permanent")


def _await_carrier(host: Host) -> None:
    """Wait until a host's interface is operational."""
    with IPRoute() as netlink:
        _await_up(netlink, [host.ifindex])


def _raise_sides() -> None:
    """Set the wire's two devices up and wait until they are operational."""
    with IPRoute() as wire:
        sides = [wire.link_lookup(ifname=side)[0] for side in SIDES]
        for device in sides:
            wire.link("set", index=device, state="up")
        _await_up(wire, sides)


def _await_up(netlink: IPRoute, devices: list[int], limit_s: float = 10.0) -> None:
    """Wait until each device is operational. Before, the kernel drops frames, and TCP retransmits after a second."""
    deadline = time.monotonic() + limit_s
    for index in devices:
        while netlink.get_links(index)[0].get_attr("IFLA_OPERSTATE") != "UP":
            if time.monotonic() > deadline:
                raise LabError(f"the lab's links did not come up within {limit_s:g} s: is the machine out of memory?")
            time.sleep(0.001)


def _stay_silent() -> None:
    """Stop the frames that the kernel sends on its own: those for link-local addresses, and router solicitations."""
    for where in ("all", "default"):
        _sysctl(f"ipv6/conf/{where}/addr_gen_mode", 1)
        _sysctl(f"ipv6/conf/{where}/router_solicitations", 0)
        _sysctl(f"ipv6/conf/{where}/accept_dad", 0)


def _bypass_firewall() -> None:
    """Take bridged frames out of br_netfilter, if it is loaded, since it drops malformed packets."""
    for path in Path("/proc/sys/net/bridge").glob("bridge-nf-call-*tables"):
        path.write_text("0", encoding="utf-8")


def _sysctl(path: str, value: object) -> None:
    Path("/proc/sys/net", path).write_text(str(value), encoding="utf-8")
