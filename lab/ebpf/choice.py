"""Write a `Choice` into the maps of a program, as `bpf/include/choice.h` reads it."""

import struct
from collections.abc import Collection, Mapping
from itertools import cycle, islice

from lab.choice import Choice
from lab.ebpf.maps import Map
from lab.errors import LabError, UnsupportedByKernel

_NETNS = 4
_SIDES = ("", "local_", "remote_")
_BITMAP = 65536 // 8
_MOST_ADDRESSES = 256


def write(choice: Choice, maps: Mapping[str, Map]) -> None:
    """Write the limits into the maps of a program. Raises `LabError` if there are too many."""
    if "choice" not in maps:
        return
    members = {name for name, *_ in maps["choice"].spec.value}
    ports = [getattr(choice, f"{side}ports") for side in _SIDES]
    hosts = [getattr(choice, f"{side}addresses") for side in _SIDES]
    if sum(map(len, hosts)) > _MOST_ADDRESSES:
        raise LabError(f"a program can be limited to {_MOST_ADDRESSES} addresses: give fewer")
    if choice.cgroup and "cgroup" not in members:
        raise UnsupportedByKernel(
            "this kernel does not tell the cgroup of a socket (Linux 5.14 does): leave --cgroup out"
        )
    limits = any(map(bool, ports)), bool(choice.version or any(hosts)), choice.version
    head = _netns(choice.netns) if "netns" in members else b""
    head += struct.pack("=9B", *limits, *map(bool, ports), *map(bool, hosts))
    value = _padded(head) + b"".join(map(_bitmap, ports))
    maps["choice"].write(value + (struct.pack("=Q", choice.cgroup) if "cgroup" in members else b""))
    chosen = maps["chosen_addresses"]
    chosen.clear()
    for address in {it for of_side in hosts for it in of_side}:
        chosen.put(address, bytes([sum((address in of_side) << bit for bit, of_side in enumerate(hosts))]))


def _netns(inodes: Collection[int]) -> bytes:
    if len(inodes) > _NETNS:
        raise LabError(f"a program can be limited to {_NETNS} network namespaces, not to {len(inodes)}: give fewer")
    # Repeat the namespaces until the array is full: a 0 would match packets without a device, whose namespace reads
    # as 0.
    return struct.pack(f"={_NETNS}I", *islice(cycle(inodes or (0,)), _NETNS))


def _bitmap(ports: Collection[int]) -> bytes:
    bits = bytearray(_BITMAP)
    for port in ports:
        bits[port // 8] |= 1 << port % 8
    return bytes(bits)


def _padded(head: bytes) -> bytes:
    return head.ljust(-(-len(head) // 8) * 8, b"\0")
