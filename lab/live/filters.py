"""The options that choose connections, the same for each live tool that has them, and what they choose."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from lab.tcp import MAPPED, address_bytes
from lab.units import port

if TYPE_CHECKING:
    from lab.arrays import Mask, Rows


def add_arguments(
    parser: argparse.ArgumentParser,
    *,
    of_sockets: bool = True,
    aliases: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> None:
    """Add the options; those of a local and a remote side only if the rows are `of_sockets`.

    `aliases`: by option, other names for it, which the tool's users know from comparable tools.
    """
    group = parser.add_argument_group("connections (default: all)")
    ports = {"port": "either port is one of these"}
    if of_sockets:
        ports |= {"local-port": "the local port is one of these", "remote-port": "the remote port is one of these"}
    for name, text in ports.items():
        group.add_argument(
            f"--{name}", *aliases.get(name, ()), type=port, nargs="+", default=[], metavar="PORT", help=text
        )
    text = "either address is one of these"
    group.add_argument("--address", type=address, nargs="+", default=[], metavar="ADDRESS", help=text)
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
        return address_bytes(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"`{text}` is not an address: give an IPv4 or IPv6 address, such as 192.0.2.1"
        ) from None


@dataclass(frozen=True)
class Filter:
    """The chosen connections: an empty list, or no version, chooses all."""

    ports: list[int] = field(default_factory=list)
    local_ports: list[int] = field(default_factory=list)
    remote_ports: list[int] = field(default_factory=list)
    addresses: list[bytes] = field(default_factory=list)
    version: int | None = None

    @classmethod
    def of(cls, args: argparse.Namespace) -> Self:
        """Return the filter of parsed options."""
        local, remote = (getattr(args, name, []) for name in ("local_port", "remote_port"))
        return cls(args.port, local, remote, args.address, args.version)

    def wanted(self, rows: "Rows", local: str = "l", remote: str = "r") -> "Mask":
        """Mark the chosen rows, by the fields `<local>addr`, `<local>port`, `<remote>addr` and `<remote>port`."""
        import numpy as np

        addresses, (lport, rport) = [rows[f"{side}addr"] for side in (local, remote)], (f"{local}port", f"{remote}port")
        chosen = np.ones(len(rows), bool)
        if self.ports:
            chosen &= np.isin(rows[lport], self.ports) | np.isin(rows[rport], self.ports)
        for name, ports in ((lport, self.local_ports), (rport, self.remote_ports)):
            if ports:
                chosen &= np.isin(rows[name], ports)
        if self.addresses:
            wanted = [np.frombuffer(one, np.uint8) for one in self.addresses]
            chosen &= np.logical_or.reduce([(its == one).all(axis=1) for its in addresses for one in wanted])
        return chosen & self.in_version(rows, local, remote)

    def in_version(self, rows: "Rows", local: str = "l", remote: str = "r") -> "Mask":
        """Mark the rows of the chosen IP version, which a row also tells while it lacks ports."""
        import numpy as np

        if not self.version:
            return np.ones(len(rows), bool)
        mapped = np.frombuffer(MAPPED, np.uint8)
        heads = [rows[f"{side}addr"][:, : len(MAPPED)] for side in (local, remote)]
        is_ipv4 = np.logical_or.reduce([(head == mapped).all(axis=1) for head in heads])
        return np.asarray(is_ipv4 == (self.version == 4))
