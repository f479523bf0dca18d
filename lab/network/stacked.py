"""Devices upon other devices: each interface of a subnet is one of these kinds, upon a veth named `under0`."""

import base64
import errno
from collections.abc import Callable
from typing import Any

from pyroute2 import IPRoute, WireGuard
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_NODAD

from lab.errors import UnsupportedByKernel
from lab.network.description import Port

UNDER = "under0"
_NUMBER = 5  # of the VLAN, and of the VXLAN
_PORT = {"vxlan": 4789, "wireguard": 51820}
_PREFIX = "198.19.0"  # RFC 2544
# Private and public keys (RFC 7748) of the first and the second interface. They protect nothing.
_KEYS = (
    (
        "4040404040404040404040404040404040404040404040404040404040404040",
        "d7b5e81d336e578b13b8d706e82d061e3038c96bce66cdcf50d566b96ddbba10",
    ),
    (
        "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
        "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
    ),
)


def create(kind: str, port: Port, lower: int, number: int) -> None:
    """Create an interface of a kind upon the device with index `lower`, in the calling thread's namespace.

    `number` is 0 at one end and 1 at the other. Raises `UnsupportedByKernel` if the kernel has no such devices.
    """
    mine, other = (f"{_PREFIX}.{end + 1}" for end in (number, 1 - number))
    with IPRoute() as netlink:
        netlink.addr("add", index=lower, address=mine, prefixlen=24, flags=IFA_F_NODAD)
        if kind != "bond":  # a device that is up cannot become part of a bond
            netlink.link("set", index=lower, state="up")
        try:
            netlink.link("add", ifname=port.ifname, index=port.ifindex, kind=kind, **_OPTIONS[kind](lower, mine, other))
        except NetlinkError as refusal:
            if refusal.code != errno.EOPNOTSUPP:
                raise
            raise UnsupportedByKernel(f"this kernel has no {kind} devices: boot one that has") from refusal
        if kind not in {"gre", "wireguard"}:
            netlink.link("set", index=port.ifindex, address=port.mac)
        if kind == "bond":
            netlink.link("set", index=lower, master=port.ifindex)
    if kind == "wireguard":
        _connect(port, number, other)


_OPTIONS: dict[str, Callable[[int, str, str], dict[str, Any]]] = {
    "macvlan": lambda lower, _mine, _other: {"link": lower, "macvlan_mode": "bridge"},
    "vlan": lambda lower, _mine, _other: {"link": lower, "vlan_id": _NUMBER},
    "bond": lambda _lower, _mine, _other: {"bond_mode": 1, "bond_miimon": 100},
    "vxlan": lambda lower, mine, other: {
        "vxlan_link": lower,
        "vxlan_id": _NUMBER,
        "vxlan_local": mine,
        "vxlan_group": other,
        "vxlan_port": _PORT["vxlan"],
        "vxlan_learning": False,
    },
    "gre": lambda lower, mine, other: {"gre_link": lower, "gre_local": mine, "gre_remote": other, "gre_ttl": 64},
    "wireguard": lambda _lower, _mine, _other: {},
}


def _connect(port: Port, number: int, other: str) -> None:
    """Give an interface of WireGuard its key and its peer."""
    (private, _), (_, public) = _KEYS[number], _KEYS[1 - number]
    peer = {
        "public_key": _text(public),
        "endpoint_addr": other,
        "endpoint_port": _PORT["wireguard"],
        "allowed_ips": ["0.0.0.0/0", "::/0"],
    }
    with WireGuard() as wireguard:
        wireguard.set(port.ifname, private_key=_text(private), listen_port=_PORT["wireguard"], peer=peer)


def _text(key: str) -> str:
    return base64.b64encode(bytes.fromhex(key)).decode()
