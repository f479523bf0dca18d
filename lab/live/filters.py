"""The options that choose connections, the same for each live tool that has them, and what they choose."""

import argparse
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from lab.choice import Choice
from lab.errors import LabError
from lab.linux import cgroup
from lab.linux.netns import inode_of
from lab.tcp import MAPPED, address_bytes
from lab.units import port

if TYPE_CHECKING:
    from lab.arrays import Mask, Rows
    from lab.linux.process import Owner

SOCKETS, CONNECTIONS, PACKETS = ("local", "remote"), ("client", "server"), ()
"""The sides of what a row is about: of a packet either end may be the one that the user means."""


def add_arguments(
    parser: argparse.ArgumentParser,
    sides: Sequence[str] = SOCKETS,
    aliases: Mapping[str, Sequence[str]] = MappingProxyType({}),
    default: str = "all",
    *,
    by_cgroup: bool = False,
) -> None:
    """Add the options for ports, addresses and the IP version of these sides.

    `aliases`: by option, other names for it, which the tool's users know from comparable tools. `default`: what is observed
    without these options. `by_cgroup`: the tool's program knows the socket of each event.
    """
    group = parser.add_argument_group(f"connections (default: {default})")
    for what, kind in (("port", port), ("address", address)):
        for side in ("", *sides):
            name = f"{side}-{what}".removeprefix("-")
            group.add_argument(
                f"--{name}",
                *aliases.get(name, ()),
                type=kind,
                nargs="+",
                default=[],
                metavar=what.upper(),
                help=f"the {side} {what} is one of these" if side else f"either {what} is one of these",
            )
    if by_cgroup:
        group.add_argument(
            "--cgroup",
            metavar="PATH",
            help="sockets of this cgroup (version 2) and those below it, such as system.slice/nginx.service",
        )
    family = group.add_mutually_exclusive_group()
    for version in (4, 6):
        words = (f"-{version}", f"--ipv{version}")
        family.add_argument(*words, action="store_const", dest="version", const=version, help=f"only IPv{version}")


def add_process_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose rows by the process that they name."""
    group = parser.add_argument_group("processes (default: all, also unknown ones)")
    group.add_argument("-p", "--pid", type=int, nargs="+", default=[], metavar="PID", help="C-PID is one of these")
    group.add_argument("--comm", nargs="+", type=_comm, default=[], metavar="NAME", help="C-COMM is one of these names")


def _comm(name: str) -> str:
    """Return a name as the kernel has it: at most 15 bytes (TASK_COMM_LEN)."""
    return name.encode()[:15].decode(errors="ignore")


def is_of_process(owner: "Owner | None", pids: Collection[int], comms: Collection[str]) -> bool:
    """Return whether a process is one of the chosen ones, if any are chosen."""
    if owner is None:
        return not pids and not comms
    return (not pids or owner.pid in pids) and (not comms or owner.comm in comms)


def of_process(rows: "Rows", pids: Collection[int], comms: Collection[bytes]) -> "Mask":
    """Mark the rows of the chosen processes, by the fields `tgid` (0: unknown) and `comm`."""
    import numpy as np

    found = np.ones(len(rows), bool)
    if pids:
        found &= np.isin(rows["tgid"], list(pids))
    if comms:
        found &= np.isin(rows["comm"], list(comms)) & (rows["tgid"] > 0)
    return found


def address(text: str) -> bytes:
    """Parse an IP address (argparse type) into 16 bytes in network order."""
    try:
        return address_bytes(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"`{text}` is not an address: give an IPv4 or IPv6 address, such as 192.0.2.1"
        ) from None


def chosen(args: argparse.Namespace) -> Choice:
    """Return what the options choose. Raises `LabError` when there is no such network namespace or process.

    Ports and addresses of a client or server are those of either end: the kernel does not know which end is the client.
    """
    for pid in getattr(args, "pid", []):
        if not Path(f"/proc/{pid}").exists():
            raise LabError(f"there is no process {pid}: give the PID of a running process (`pgrep NAME` finds it)")
    given = {name: tuple(getattr(args, name, ())) for side in _SIDES for name in (f"{side}port", f"{side}address")}
    return Choice(
        netns=() if args.netns is None else (inode_of(args.netns),),
        ports=given["port"] + given["client_port"] + given["server_port"],
        local_ports=given["local_port"],
        remote_ports=given["remote_port"],
        addresses=given["address"] + given["client_address"] + given["server_address"],
        local_addresses=given["local_address"],
        remote_addresses=given["remote_address"],
        version=args.version or 0,
        cgroup=cgroup.inode_of(args.cgroup) if getattr(args, "cgroup", None) else 0,
    )


_SIDES = ("", *(f"{side}_" for side in SOCKETS + CONNECTIONS))


def wanted(choice: Choice, rows: "Rows", local: str = "l", remote: str = "r") -> "Mask":
    """Mark the chosen rows, by the fields `<local>addr`, `<local>port`, `<remote>addr` and `<remote>port`."""
    import numpy as np

    ports = rows[f"{local}port"], rows[f"{remote}port"]
    hosts = rows[f"{local}addr"], rows[f"{remote}addr"]
    found = in_version(choice, rows, local, remote)
    for columns, of_ports, of_hosts in (
        ((0, 1), choice.ports, choice.addresses),
        ((0,), choice.local_ports, choice.local_addresses),
        ((1,), choice.remote_ports, choice.remote_addresses),
    ):
        if of_ports:
            found &= np.logical_or.reduce([np.isin(ports[column], list(of_ports)) for column in columns])
        if of_hosts:
            found &= np.logical_or.reduce([_are_one_of(hosts[column], of_hosts) for column in columns])
    return found


def _are_one_of(column: "Rows", addresses: Collection[bytes]) -> "Mask":
    import numpy as np

    return np.logical_or.reduce([(column == np.frombuffer(one, np.uint8)).all(axis=1) for one in addresses])


def in_version(choice: Choice, rows: "Rows", local: str = "l", remote: str = "r") -> "Mask":
    """Mark the rows of the chosen IP version, which a row also tells while it lacks ports."""
    import numpy as np

    if not choice.version:
        return np.ones(len(rows), bool)
    mapped = np.frombuffer(MAPPED, np.uint8)
    heads = [rows[f"{side}addr"][:, : len(MAPPED)] for side in (local, remote)]
    is_ipv4 = np.logical_or.reduce([(head == mapped).all(axis=1) for head in heads])
    return np.asarray(is_ipv4 == (choice.version == 4))
