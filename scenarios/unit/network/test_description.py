"""Descriptions of networks: addresses, names and routes, without a kernel."""

import pytest

from lab.errors import LabError
from lab.network.description import NETWORKS, Network, Subnet, network_of


@pytest.mark.parametrize("name", NETWORKS)
def test_every_interface_is_told_apart(name):
    """No two interfaces of a network have the same ifindex or address, and each host comes with a path to each other."""
    ports = list(NETWORKS[name].ports.values())
    for values in ([it.ifindex for it in ports], [it.ipv4 for it in ports], [it.ipv6 for it in ports]):
        assert len(set(values)) == len(ports)
    assert {"client", "server"} <= set(NETWORKS[name].hosts) or NETWORKS[name].hosts == ("host",)
    list(NETWORKS[name].routes())


def hops(name, node, host):
    """Return the nodes on the way from a node to a host."""
    network = NETWORKS[name]
    routes = {(hop.node, hop.host): hop.gateway.node for hop in network.routes()}
    path = [node]
    while (path[-1], host) in routes:
        path.append(routes[path[-1], host])
    return path if path[-1] == host else [*path, host]


def test_routes():
    """Packets take the shortest path, or the detour of the description: then each direction has its own."""
    assert hops("hops", "client", "server") == ["client", "router", "router2", "router3", "server"]
    assert hops("hops", "server", "client") == ["server", "router3", "router2", "router", "client"]
    assert hops("asymmetric", "client", "server") == ["client", "router", "server"]
    assert hops("asymmetric", "server", "client") == ["server", "router2", "client"]
    assert list(NETWORKS["switch"].routes()) == []


def test_no_path():
    """A network whose hosts cannot reach each other is refused."""
    apart = Network(
        (Subnet("direct", ("client.eth0", "router.eth0")), Subnet("direct", ("server.eth0", "router2.eth0")))
    )
    with pytest.raises(LabError, match="no path from client to server: add a router"):
        list(apart.routes())


def test_translated_addresses():
    """Behind NAT the server sees the router, and the client addresses it: both are known by the client's addresses."""
    assert NETWORKS["router"].translated == {}
    assert NETWORKS["nat"].translated == {
        "198.51.100.3": "192.0.2.1",
        "2001:db8:1::3": "2001:db8::1",
        "198.51.100.2": "192.0.2.3",
        "2001:db8:1::2": "2001:db8::3",
    }


def test_an_unknown_name():
    """A name that no network has gives one sentence with all names."""
    with pytest.raises(LabError, match="there is no network `ring`: give one of wire, "):
        network_of("ring")
