"""A host behind the server of a network, for which the server forwards packets, and a rule of netfilter."""

import secrets
import subprocess
from contextlib import contextmanager

from pyroute2.nftables.main import NFTables

from lab.linux import netns
from lab.linux.netns import inside
from support.packet_taps import await_that

HOST, ROUTER = "198.51.100.2", "198.51.100.1"
IFNAME = "inner"  # of the router, towards the host
_TABLE = "scenario"


@contextmanager
def host_behind(net):
    """Yield the name of the network namespace of a host that the client reaches through the server of the network."""
    name, router = f"{net.server.name}-{secrets.token_hex(2)}", net.server.name
    netns.create(name)
    try:
        _ip(router, "link add", IFNAME, "type veth peer name eth0 netns", name)
        for where, ifname, address in ((router, IFNAME, ROUTER), (name, "eth0", HOST)):
            _ip(where, "address add", f"{address}/24 dev", ifname)
            _ip(where, "link set", ifname, "up")
        _ip(name, "route add default via", ROUTER)
        _ip(net.client.name, "route add", HOST, "via", net.server.ipv4)
        net.server.sysctl("ipv4/ip_forward", 1)
        for where, ifname in ((router, IFNAME), (name, "eth0")):
            await_that(lambda where=where, ifname=ifname: "state UP" in _ip(where, "link show", ifname))
        yield name
    finally:
        netns.remove(name)


@contextmanager
def deaf(host):
    """Drop, in netfilter's hook INPUT, all packets that come to a network namespace."""
    inside(host, _drop)
    try:
        yield
    finally:
        inside(host, _forget)


def _drop():
    with NFTables(nfgen_family=2) as nft:
        nft.begin()
        nft.table("add", name=_TABLE)
        nft.chain("add", table=_TABLE, name="input", hook="input", type="filter", priority=0, policy=0)
        nft.commit()


def _forget():
    with NFTables(nfgen_family=2) as nft:
        nft.begin()
        nft.table("del", name=_TABLE)
        nft.commit()


def _ip(host, *words):
    command = ["/usr/sbin/ip", "-n", host, *" ".join(words).split()]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
