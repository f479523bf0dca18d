"""Networks, described: nodes, their interfaces, and how these are joined. `topology.py` builds them.

What lives here: `Network`, the networks by name, and what follows from a description without a kernel: addresses, routes.

A node is a host, a router or a switch. `client.eth0` is the interface `eth0` of the node `client`. Names of hosts begin with
`client` or `server`; the node `host` is both at once. A router is any other node, and its name says so.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from ipaddress import ip_address
from typing import NamedTuple

from lab.errors import LabError

_PREFIXES = ("192.0.2", "198.51.100", "203.0.113", "198.18.0")  # RFC 5737, RFC 2544
_MAC_TAILS = {"client": "c1", "server": "5e"}
_FIRST_INDEX = 101
_NUMBERS = ("", "2", "3", "4")  # in the names of hosts of one role
_WITHOUT_ETHERNET = ("tun", "gre", "wireguard")


@dataclass(frozen=True)
class Subnet:
    """Interfaces that reach each other without a router.

    `kind` is one of

    - `wire`: two hosts and a namespace between them, which holds the link (`lab.network.link`);
    - `direct`: one veth pair;
    - `switch`: a bridge in a namespace of its own, with a port for each interface;
    - `tun`: two tun devices and a process that carries their packets;
    - `loopback`: the loopback of one host.

    `stacked` is the kind of device that each interface is, upon a veth named `under0`. By default it is the veth itself.
    """

    kind: str
    interfaces: tuple[str, ...]
    stacked: str = ""

    @property
    def has_ethernet(self) -> bool:
        """Whether frames of these interfaces have an Ethernet header."""
        return not {self.kind, self.stacked} & set(_WITHOUT_ETHERNET)


class Port(NamedTuple):
    """An interface of a node. Its ifindex is unique in the network, so the ifindex of an event identifies it."""

    node: str
    ifname: str
    ifindex: int
    mac: str
    ipv4: str
    ipv6: str
    subnet: int

    def address(self, version: int) -> str:
        """Return the address of IP version 4 or 6."""
        return {4: self.ipv4, 6: self.ipv6}[version]


class Hop(NamedTuple):
    """A route: `node` sends packets for the main addresses of `host` from its interface `out` to the port `gateway`."""

    node: str
    host: str
    out: Port
    gateway: Port


@dataclass(frozen=True)
class Network:
    """A network. The first interface of a host has its main addresses.

    - `detours`: rows of (node, host, next node) where a packet does not take the shortest path.
    - `masquerade`: the router that replaces the clients' addresses with its own.
    - `forwards`: the router that clients address instead of the server. It replaces its address with the server's (DNAT).
    - `timestamps`: whether TCP uses time stamps (RFC 7323).
    - `link_local`: whether the IPv6 addresses are link-local (RFC 4291, 2.5.6), which name their interface too.
    """

    subnets: tuple[Subnet, ...]
    detours: tuple[tuple[str, str, str], ...] = ()
    masquerade: str = ""
    forwards: str = ""
    mtu: int = 1500
    timestamps: bool = True
    link_local: bool = False

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """Names of the hosts and routers: client and server first."""
        every = {interface.partition(".")[0]: None for subnet in self.subnets for interface in subnet.interfaces}
        first = [node for node in ("client", "server") if node in every]
        return tuple(dict.fromkeys([*first, *every]))

    @property
    def has_wire(self) -> bool:
        """Whether there is a wire, which a link with conditions or a log can be installed in."""
        return any(subnet.kind == "wire" for subnet in self.subnets)

    @cached_property
    def hosts(self) -> tuple[str, ...]:
        """Names of the nodes that applications run on."""
        return tuple(node for node in self.nodes if node.startswith(("client", "server", "host")))

    @cached_property
    def routers(self) -> tuple[str, ...]:
        """Names of the nodes that forward packets."""
        return tuple(node for node in self.nodes if node not in self.hosts)

    @cached_property
    def ports(self) -> dict[str, Port]:
        """Interfaces by name (`client.eth0`)."""
        found: dict[str, Port] = {}
        for number, subnet in enumerate(self.subnets):
            for interface in sorted(subnet.interfaces, key=lambda it: self.nodes.index(it.partition(".")[0])):
                node, _, ifname = interface.partition(".")
                last = self.nodes.index(node) + 1
                mac = f"02:00:00:00:{number:02x}:{_MAC_TAILS.get(node, f'{last:02x}')}"
                prefix = "fe80" if self.link_local else f"2001:db8:{number:x}"
                ipv4, ipv6 = f"{_PREFIXES[number]}.{last}", str(ip_address(f"{prefix}::{last:x}"))
                found[interface] = Port(node, ifname, _FIRST_INDEX + len(found), mac, ipv4, ipv6, number)
                if subnet.kind == "loopback":
                    found[interface] = Port(node, ifname, 1, "00:00:00:00:00:00", "127.0.0.1", "::1", number)
        return found

    def of_node(self, node: str) -> list[Port]:
        """Return the interfaces of a node, its main interface first."""
        return [port for port in self.ports.values() if port.node == node]

    @cached_property
    def translated(self) -> dict[str, str]:
        """By address that the server sees or has, the address of the same host that the client sees or has."""
        found = {}
        for version in (4, 6):
            if self.masquerade:
                outer, client = self.of_node(self.masquerade)[-1], self.of_node("client")[0]
                found[outer.address(version)] = client.address(version)
            if self.forwards:
                server, gate = self.of_node("server")[0], self.of_node(self.forwards)[0]
                found[server.address(version)] = gate.address(version)
        return found

    def neighbours(self, port: Port) -> list[Port]:
        """Return the other interfaces of an interface's subnet."""
        return [other for other in self.ports.values() if other.subnet == port.subnet and other != port]

    def routes(self) -> Iterator[Hop]:
        """Yield the routes of all nodes to all hosts that need one."""
        detours = {(node, host): through for node, host, through in self.detours}
        for node in self.nodes:
            for host in self.hosts:
                on_link = self.of_node(host)[0].subnet in [port.subnet for port in self.of_node(node)]
                if node != host and ((node, host) in detours or not on_link):
                    through = detours.get((node, host)) or self._first_hop(node, host)
                    yield Hop(node, host, *self._shared(node, through))

    def hops(self) -> int:
        """Return the largest number of interfaces that a packet arrives at on its way."""
        return sum(2 if subnet.kind in {"wire", "switch"} else 1 for subnet in self.subnets)

    def _first_hop(self, node: str, host: str) -> str:
        """Return the first node on a shortest path from a node to a host."""
        paths = deque((other.node, other.node) for port in self.of_node(node) for other in self.neighbours(port))
        seen = {node}
        while paths:
            first, last = paths.popleft()
            if last == host:
                return first
            if last in self.routers and last not in seen:
                seen.add(last)
                paths.extend((first, other.node) for port in self.of_node(last) for other in self.neighbours(port))
        raise LabError(f"the network has no path from {node} to {host}: add a router between them")

    def _shared(self, node: str, other: str) -> tuple[Port, Port]:
        """Return the interfaces by which two nodes reach each other."""
        return next((mine, its) for mine in self.of_node(node) for its in self.neighbours(mine) if its.node == other)


def _pair(kind: str, stacked: str = "", ifname: str = "eth0") -> Network:
    return Network((Subnet(kind, (f"client.{ifname}", f"server.{ifname}"), stacked),))


def _switch(clients: int, servers: int) -> Network:
    """Return a switch with a number of clients and of servers."""
    hosts = [role + number for role, most in (("client", clients), ("server", servers)) for number in _NUMBERS[:most]]
    return Network((Subnet("switch", tuple(f"{host}.eth0" for host in hosts)),))


_ROUTER = Network((Subnet("wire", ("client.eth0", "router.eth0")), Subnet("direct", ("router.eth1", "server.eth0"))))
_WIRE = _pair("wire")

NETWORKS = {
    "wire": _WIRE,
    "jumbo": replace(_WIRE, mtu=9000),
    "no-timestamps": replace(_WIRE, timestamps=False),
    "link-local": replace(_WIRE, link_local=True),
    "one-host": Network((Subnet("loopback", ("host.lo",)),), mtu=65536),
    "direct": _pair("direct"),
    "switch": _switch(3, 1),
    "switch-pairs": _switch(2, 2),
    "router": _ROUTER,
    "hops": Network(
        (
            Subnet("wire", ("client.eth0", "router.eth0")),
            Subnet("direct", ("router.eth1", "router2.eth0")),
            Subnet("direct", ("router2.eth1", "router3.eth0")),
            Subnet("direct", ("router3.eth1", "server.eth0")),
        )
    ),
    "masquerade": replace(_ROUTER, masquerade="router"),
    "dnat": replace(_ROUTER, forwards="router"),
    "nat": replace(_ROUTER, masquerade="router", forwards="router"),
    "asymmetric": Network(
        (
            Subnet("wire", ("client.eth0", "router.eth0")),
            Subnet("direct", ("router.eth1", "server.eth0")),
            Subnet("direct", ("client.eth1", "router2.eth0")),
            Subnet("direct", ("router2.eth1", "server.eth1")),
        ),
        detours=(("server", "client", "router2"),),
    ),
    "tun": _pair("tun", ifname="tun0"),
    **{kind: _pair("direct", kind) for kind in ("macvlan", "vxlan", "vlan", "bond", "gre", "wireguard")},
}
"""All networks by name. Replies of `asymmetric` arrive at another interface than the one that requests leave from."""


def network_of(name: str) -> Network:
    """Return the network of this name. Raises `LabError` if there is none."""
    if name not in NETWORKS:
        raise LabError(f"there is no network `{name}`: give one of {', '.join(NETWORKS)}")
    return NETWORKS[name]
