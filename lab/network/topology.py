"""Networks out of network namespaces, built from a description (`description.py`). The default is `client | wire | server`.

    client            wire             server
    eth0  ==========  client =bridge= server  ==========  eth0

Namespaces are named after the instance, so instances do not collide. Addresses are from the documentation ranges (RFC
5737, RFC 3849). Neighbour entries are permanent and the kernels send nothing on their own, so the only frames on the
wire are those of the scenario.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from pyroute2 import IPRoute
from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_NODAD

from lab.ebpf.interface import Device
from lab.errors import LabError
from lab.linux.grace_period import await_backlogs
from lab.linux.instance import Instance
from lab.linux.netns import create, inode_of, inside, remove, tcp_sockets
from lab.network import nat, stacked
from lab.network.conditions import Change, Conditions
from lab.network.description import Hop, Network, Port, Subnet, network_of
from lab.network.link import DEVICE, SIDES, Bridge, Link, Place, Unwired
from lab.network.tunnel import Tunnel
from lab.tcp import State

ETHERNET_MTU = 1500
CLIENT_MAC, SERVER_MAC = (network_of("wire").ports[f"{role}.eth0"].mac for role in SIDES)
LOOPBACK = 1  # ifindex of the loopback in every namespace
_BRIDGE = "bridge"
# Indexes of interfaces that no description names: those under stacked ones, and the ports of the wire and of a switch.
_BELOW, _FIRST_OF_HUB = 100, {"wire": 301, "switch": 401}
_NTF_MASTER, _NUD_STATIC = 0x04, 0x40  # an entry of the bridge, for another machine (include/uapi/linux/neighbour.h)
_topologies = count()
_LASTING = (State.LISTEN, State.TIME_WAIT)


class _End(NamedTuple):
    """One end of a veth pair."""

    namespace: str
    ifname: str
    ifindex: int
    mac: str = ""


@dataclass(frozen=True)
class Host:
    """A host: a namespace with a main interface, whose address of each IP version is the host's."""

    name: str
    ipv4: str
    ipv6: str
    mac: str
    ifindex: int  # of the interface; it differs between the hosts, so the ifindex of an event identifies the host
    ifname: str = DEVICE
    ethernet: bool = True

    @property
    def inode(self) -> int:
        """Inode number of the namespace, the form in which events identify it."""
        return inode_of(self.name)

    @property
    def device(self) -> Device:
        """The host's interface, as an attach point for programs."""
        return Device(self.ifname, self.ifindex, self.name, self.inode, ethernet=self.ethernet)

    def address(self, version: int) -> str:
        """Return the address of IP version 4 or 6; a link-local one with the interface, which all hosts name alike."""
        ipv6 = f"{self.ipv6}%{self.ifname}" if self.ipv6.startswith("fe80:") else self.ipv6
        return {4: self.ipv4, 6: ipv6}[version]

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
    """A network that exists: a client and a server that talk, the other hosts, and the link of the wire.

    - `wire`: the namespace of the wire, "" if the network has none.
    - `hosts`: by name, all hosts; the names are those of the description.
    - `interfaces`: by name (`router.eth1`, `switch.client`, `switch.bridge`), all interfaces of hosts, routers and switches.
    - `target`: the host or router that clients address. It is the server, except with a DNAT router.
    """

    client: Host
    server: Host
    wire: str
    link: Link
    description: Network
    hosts: Mapping[str, Host]
    interfaces: Mapping[str, Device]
    target: Host

    def conditions(self, to_server: Conditions, to_client: Conditions) -> Change:
        """Change the conditions of the wire and return when they changed."""
        return self.link.apply(to_server, to_client)

    @property
    def inodes(self) -> tuple[int, int]:
        """Inode numbers of both hosts' namespaces."""
        return self.client.inode, self.server.inode

    @property
    def devices(self) -> tuple[Device, ...]:
        """The interfaces of the client's and the server's host, main interfaces first: one if they are the same host."""
        main = (self.client.device, self.server.device)
        mine = [port.ifindex for port in self.description.ports.values()]
        other = [it for it in self.interfaces.values() if it.inode in self.inodes and it.ifindex in mine]
        return tuple(dict.fromkeys((*main, *other)))

    def between(self, client: str, server: str) -> "Topology":
        """Return the same network with other hosts, by name, as client and server."""
        return replace(self, client=self.hosts[client], server=self.hosts[server], target=self.hosts[server])

    def quiesce(self, limit_s: float = 20.0) -> int:
        """Wait until no host has an open connection, and return that time (`CLOCK_MONOTONIC`, ns).

        A minisock counts as closed, except in FIN_WAIT2, where the peer has not closed yet. The kernel has finished all
        work on these connections when this returns. Raises `LabError` with the remaining sockets after `limit_s`.
        """
        deadline = time.monotonic() + limit_s
        namespaces = {host.name for host in self.hosts.values()}
        while left := [s for name in namespaces for s in tcp_sockets(name) if s.state not in _LASTING]:
            if time.monotonic() > deadline:
                sockets = ", ".join(f"{s.local} -> {s.remote} {s.state.name}" for s in left[:3])
                raise LabError(f"{len(left)} connections did not end within {limit_s:g} s, first {sockets}")
            time.sleep(0.001)
        await_backlogs(hops=self.description.hops())
        # Frames that the wire still holds arrive later, and a socket in TIME_WAIT may answer them.
        while waiting := self.link.waiting():
            if time.monotonic() > deadline:
                raise LabError(f"{waiting} frames were still on the wire after {limit_s:g} s: give it a shorter delay")
            time.sleep(0.001)
            await_backlogs(hops=self.description.hops())
        return time.monotonic_ns()


@contextmanager
def topology(
    link: Link | None = None, *, network: str | Network = "wire", mtu: int | None = None
) -> Iterator[Topology]:
    """Build a network, by name or described, for the block, then remove it.

    The default link of its wire is a bridge. Every interface has the `mtu`, by default that of the description.
    Raises `UnsupportedByKernel` if this kernel lacks a kind of interface.
    """
    described = network_of(network) if isinstance(network, str) else network
    if mtu is not None:
        described = replace(described, mtu=mtu)
    with ExitStack() as undo:
        yield _Builder(described, link, undo).build()


class _Builder:
    """Builds one network. Everything is in namespaces of this instance, or its removal is a callback in `undo`."""

    def __init__(self, network: Network, link: Link | None, undo: ExitStack) -> None:
        self._network, self._undo = network, undo
        self._prefix = f"{Instance.current().namespaces()}{next(_topologies)}"
        kinds = [subnet.kind for subnet in network.subnets]
        self._hubs = [kind for kind in ("wire", "switch") if kind in kinds]
        if link and not network.has_wire:
            raise LabError("this network has no wire: leave the link out")
        self._link = link
        self._interfaces: dict[str, Device] = {}

    def build(self) -> Topology:
        """Build the network and return it."""
        for node in (*self._hubs, *self._network.nodes):
            self._undo.callback(remove, self._namespace(node))
            create(self._namespace(node))
            inside(self._namespace(node), self._prepare)
        for name, port in self._network.ports.items():
            device = self._device(port.node, port.ifname, port.ifindex)
            self._interfaces[name] = device._replace(ethernet=self._network.subnets[port.subnet].has_ethernet)
        for number, subnet in enumerate(self._network.subnets):
            ports = [port for port in self._network.ports.values() if port.subnet == number]
            self._join(subnet, ports)
            for port in ports:
                inside(self._namespace(port.node), partial(self._configure, subnet, port))
        for hop in self._network.routes():
            inside(self._namespace(hop.node), partial(self._route, hop))
        for router in self._network.routers:
            inside(self._namespace(router), partial(self._forward, router))
        link = self._carry()
        for port in self._with_carrier():
            inside(self._namespace(port.node), partial(_await_up, [port.ifindex]))
        hosts = {host: self._host(host) for host in self._network.hosts}
        client, server = (hosts.get(role) or hosts["host"] for role in ("client", "server"))
        gate = self._network.forwards
        wire = self._namespace("wire") if "wire" in self._hubs else ""
        target = self._host(gate) if gate else server
        return Topology(client, server, wire, link, self._network, hosts, self._interfaces, target)

    def _namespace(self, node: str) -> str:
        return f"{self._prefix}-{node}"

    def _host(self, node: str) -> Host:
        port = self._network.of_node(node)[0]
        ethernet = self._network.subnets[port.subnet].has_ethernet
        return Host(self._namespace(node), port.ipv4, port.ipv6, port.mac, port.ifindex, port.ifname, ethernet)

    def _device(self, node: str, ifname: str, ifindex: int) -> Device:
        return Device(ifname, ifindex, self._namespace(node), inode_of(self._namespace(node)))

    def _prepare(self) -> None:
        """Prepare the calling thread's namespace: its sysctls, and its loopback."""
        _stay_silent()
        for where in ("all", "default"):
            _sysctl(f"ipv4/conf/{where}/rp_filter", 0)  # it would drop what arrives on an asymmetric path
        _sysctl("ipv4/tcp_timestamps", int(self._network.timestamps))
        with IPRoute() as netlink:
            netlink.link("set", index=LOOPBACK, state="up")

    def _join(self, subnet: Subnet, ports: list[Port]) -> None:
        """Create the interfaces of a subnet, and what joins them."""
        mtu = self._network.mtu
        ends = [_End(self._namespace(port.node), port.ifname, port.ifindex, port.mac) for port in ports]
        if subnet.stacked:
            ends = [_End(end.namespace, stacked.UNDER, end.ifindex + _BELOW) for end in ends]
            for port, end in zip(ports, ends, strict=True):
                self._interfaces[f"{port.node}.{end.ifname}"] = self._device(port.node, end.ifname, end.ifindex)
        if subnet.kind in self._hubs:
            hub = self._namespace(subnet.kind)
            for number, (port, end) in enumerate(zip(ports, ends, strict=True)):
                name = SIDES[number] if subnet.kind == "wire" else port.node
                other = _End(hub, name, _FIRST_OF_HUB[subnet.kind] + number)
                inside(end.namespace, partial(_create_pair, end, other, mtu))
                self._interfaces[f"{subnet.kind}.{name}"] = self._device(subnet.kind, name, other.ifindex)
        elif subnet.kind == "direct":
            inside(ends[0].namespace, partial(_create_pair, ends[0], ends[1], mtu))
        elif subnet.kind == "tun":
            tunnel = Tunnel(*((end.namespace, end.ifname, end.ifindex) for end in ends))
            self._undo.callback(tunnel.remove)
        if subnet.stacked:
            for number, (port, end) in enumerate(zip(ports, ends, strict=True)):
                inside(end.namespace, partial(stacked.create, subnet.stacked, port, end.ifindex, number))

    def _configure(self, subnet: Subnet, port: Port) -> None:
        """Configure the addresses and neighbour entries of an interface, in its namespace."""
        if subnet.kind == "loopback":
            return
        with IPRoute() as netlink:
            # An interface without address resolution joins no solicited-node group (addrconf_join_solict()), so it
            # sends no MLD reports.
            netlink.link("set", index=port.ifindex, arp=False)
            # Duplicate address detection would delay IPv6 by a second.
            netlink.addr("add", index=port.ifindex, address=port.ipv4, prefixlen=24)
            netlink.addr("add", index=port.ifindex, address=port.ipv6, prefixlen=64, flags=IFA_F_NODAD)
            netlink.link("set", index=port.ifindex, state="up")
            if subnet.has_ethernet:
                for peer in self._network.neighbours(port):
                    for address in (peer.ipv4, peer.ipv6):
                        netlink.neigh("add", dst=address, lladdr=peer.mac, ifindex=port.ifindex, state="permanent")

    def _route(self, hop: Hop) -> None:
        """Add a route to the main addresses of a host, in the namespace of the node that needs it."""
        to = self._network.of_node(hop.host)[0]
        with IPRoute() as netlink:
            for version, length in ((4, 32), (6, 128)):
                dst = f"{to.address(version)}/{length}"
                netlink.route("add", dst=dst, gateway=hop.gateway.address(version), oif=hop.out.ifindex)

    def _forward(self, router: str) -> None:
        """Forward packets in the calling thread's namespace, and translate addresses if this router does."""
        _sysctl("ipv4/ip_forward", 1)
        _sysctl("ipv6/conf/all/forwarding", 1)
        inner, *_, outer = self._network.of_node(router)
        if router == self._network.masquerade:
            nat.masquerade(outer.ifname)
        if router == self._network.forwards:
            server = self._network.of_node("server")[0]
            nat.forward(inner.ifname, (server.ipv4, server.ipv6))

    def _carry(self) -> Link:
        """Join the ports of a switch, and those of the wire by a link; return the link."""
        if "switch" in self._hubs:
            inside(self._namespace("switch"), partial(_switch, list(self._network.ports.values())))
            self._interfaces["switch.bridge"] = self._device("switch", _BRIDGE, _FIRST_OF_HUB["switch"] - 1)
        every = [self._namespace(node) for node in (*self._network.nodes, *self._hubs)]
        if "wire" not in self._hubs:
            return Unwired(*every)
        wire, link = self._namespace("wire"), self._link or Bridge()
        (ends,) = [it.interfaces for it in self._network.subnets if it.kind == "wire"]
        here = tuple(self._namespace(self._network.ports[name].node) for name in ends)
        self._undo.callback(link.remove)
        inside(wire, _bypass_firewall)
        inside(wire, partial(_raise, range(_FIRST_OF_HUB["wire"], _FIRST_OF_HUB["wire"] + len(SIDES))))
        link.install(Place(wire, here, tuple(name for name in every if name not in {wire, *here})))
        return link

    def _with_carrier(self) -> Iterator[Port]:
        """Yield the interfaces that report a carrier."""
        for port in self._network.ports.values():
            subnet = self._network.subnets[port.subnet]
            if subnet.kind != "loopback" and subnet.has_ethernet and subnet.stacked != "vxlan":
                yield port


def _create_pair(end: _End, other: _End, mtu: int) -> None:
    """Create a veth pair from the calling thread's namespace to another one."""
    attributes: list[tuple[str, Any]] = [("IFLA_IFNAME", other.ifname), ("IFLA_MTU", mtu)]
    attributes += [("IFLA_NET_NS_FD", other.namespace), *([("IFLA_ADDRESS", other.mac)] if other.mac else [])]
    # pyroute2 passes no ifindex of the peer, so the message is given as it is.
    peer = ("VETH_INFO_PEER", {"index": other.ifindex, "attrs": attributes})
    info = {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [peer]})]}
    address = {"address": end.mac} if end.mac else {}
    with IPRoute() as netlink:
        netlink.link("add", ifname=end.ifname, index=end.ifindex, mtu=mtu, IFLA_LINKINFO=info, **address)


def _switch(ports: list[Port]) -> None:
    """Join the interfaces of the calling thread's namespace by a bridge, which knows the addresses behind its ports."""
    _bypass_firewall()
    first = _FIRST_OF_HUB["switch"]
    _raise(range(first, first + len(ports)))
    with IPRoute() as netlink:
        options = {"br_stp_state": 0, "br_forward_delay": 0, "br_mcast_snooping": 0}
        netlink.link("add", ifname=_BRIDGE, index=first - 1, kind="bridge", **options)
        netlink.link("set", index=first - 1, state="up")
        for index, port in enumerate(ports, first):
            netlink.link("set", index=index, master=first - 1)
            netlink.fdb("add", ifindex=index, lladdr=port.mac, flags=_NTF_MASTER, state=_NUD_STATIC)


def _raise(devices: Sequence[int]) -> None:
    """Set devices of the calling thread's namespace up and wait until they are operational."""
    with IPRoute() as netlink:
        for device in devices:
            netlink.link("set", index=device, state="up")
    _await_up(devices)


def _await_up(devices: Sequence[int], limit_s: float = 10.0) -> None:
    """Wait until each device is operational. Before, the kernel drops frames, and TCP retransmits after a second."""
    deadline = time.monotonic() + limit_s
    with IPRoute() as netlink:
        for index in devices:
            while netlink.get_links(index)[0].get_attr("IFLA_OPERSTATE") != "UP":
                if time.monotonic() > deadline:
                    raise LabError(
                        f"the lab's links did not come up within {limit_s:g} s: is the machine out of memory?"
                    )
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
