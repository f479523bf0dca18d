"""The options that choose connections, the same for each live tool that has them, and what they choose."""

import argparse
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from lab.units import port

if TYPE_CHECKING:
    from lab.arrays import Mask, Rows

_MAPPED = b"\0" * 10 + b"\xff" * 2  # IPv4 in 16 bytes: RFC 4291, 2.5.5.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group("connections (default: all)")
    for flag, text in (
        ("port", "either port is one of these"),
        ("local-port", "local port"),
        ("remote-port", "remote port"),
    ):
        group.add_argument(f"--{flag}", type=port, nargs="+", default=[], metavar="PORT", help=f"only with: {text}")
    group.add_argument(
        "--address",
        type=address,
        nargs="+",
        default=[],
        metavar="ADDRESS",
        help="only with: either address is one of these",
    )
    family = group.add_mutually_exclusive_group()
    for version in (4, 6):
        family.add_argument(
            f"-{version}",
            f"--ipv{version}",
            action="store_const",
            dest="version",
            const=version,
            help=f"only IPv{version}",
        )


def address(text: str) -> bytes:
    """Parse an IP address (argparse type) into 16 bytes in network order."""
    try:
        packed = ipaddress.ip_address(text).packed
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"`{text}` is not an address: give an IPv4 or IPv6 address, such as 192.0.2.1"
        ) from None
    return _MAPPED + packed if len(packed) == 4 else packed


@dataclass(frozen=True)
class Filter:
    """The chosen connections: an empty list, or no version, chooses all."""

    ports: list[int]
    local_ports: list[int]
    remote_ports: list[int]
    addresses: list[bytes]
    version: int | None

    @classmethod
    def of(cls, args: argparse.Namespace) -> Self:
        """Return the filter of parsed options."""
        return cls(args.port, args.local_port, args.remote_port, args.address, args.version)

    def wanted(self, rows: "Rows") -> "Mask":
        """Mark the chosen rows, by the fields `laddr`, `lport`, `raddr` and `rport`."""
        import numpy as np

        chosen = np.ones(len(rows), bool)
        if self.ports:
            chosen &= np.isin(rows["lport"], self.ports) | np.isin(rows["rport"], self.ports)
        for name, ports in (("lport", self.local_ports), ("rport", self.remote_ports)):
            if ports:
                chosen &= np.isin(rows[name], ports)
        if self.addresses:
            either = [
                (rows[name] == np.frombuffer(one, np.uint8)).all(axis=1)
                for name in ("laddr", "raddr")
                for one in self.addresses
            ]
            chosen &= np.logical_or.reduce(either)
        if self.version:
            mapped = np.frombuffer(_MAPPED, np.uint8)
            is_ipv4 = np.logical_or.reduce([(rows[name][:, :12] == mapped).all(axis=1) for name in ("laddr", "raddr")])
            chosen &= is_ipv4 == (self.version == 4)
        return chosen
