"""Address translation (NAT) in the calling thread's network namespace, by nftables over netlink: no `nft` is needed."""

import socket
from ipaddress import ip_address
from typing import Any

from pyroute2.nftables.expressions import genex
from pyroute2.nftables.main import NFTables

_FAMILIES = (socket.AF_INET, socket.AF_INET6)  # NFPROTO_IPV4 and NFPROTO_IPV6 have the same numbers
# include/uapi/linux/netfilter/nf_tables.h and include/uapi/linux/netfilter_ipv4.h
_META_IIFNAME, _META_OIFNAME = 6, 7
_REGISTER = 1
_DNAT = 1
_PRIORITY = {"prerouting": -100, "postrouting": 100}


def masquerade(ifname: str) -> None:
    """Replace the source of what leaves by this interface with the interface's own address."""
    for family in _FAMILIES:
        _rule(family, "postrouting", [*_through(_META_OIFNAME, ifname), genex("masq", {})])


def forward(ifname: str, addresses: tuple[str, str]) -> None:
    """Replace the destination of what arrives at this interface with the IPv4 or the IPv6 address."""
    for family, address in zip(_FAMILIES, addresses, strict=True):
        value = {"attrs": [("NFTA_DATA_VALUE", ip_address(address).packed)]}
        translation = {"type": _DNAT, "family": int(family), "reg_addr_min": _REGISTER}
        load = genex("immediate", {"dreg": _REGISTER, "data": value})
        _rule(family, "prerouting", [*_through(_META_IIFNAME, ifname), load, genex("nat", translation)])


def _through(key: int, ifname: str) -> list[Any]:
    """Return the expressions that match an interface's name."""
    name = {"attrs": [("NFTA_DATA_VALUE", ifname.encode().ljust(16, b"\0"))]}
    return [genex("meta", {"dreg": _REGISTER, "key": key}), genex("cmp", {"sreg": _REGISTER, "op": 0, "data": name})]


def _rule(family: socket.AddressFamily, hook: str, expressions: list[Any]) -> None:
    with NFTables(nfgen_family=int(family)) as nft:
        nft.begin()
        nft.table("add", name="lab")
        nft.chain("add", table="lab", name=hook, hook=hook, type="nat", priority=_PRIORITY[hook])
        nft.rule("add", table="lab", chain=hook, expressions=(expressions,))
        nft.commit()
