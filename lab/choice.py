"""What a program observes, as plain data: network namespaces, ports, addresses and the IP version."""

from collections.abc import Collection
from typing import NamedTuple


class Choice(NamedTuple):
    """Limits of what a program observes. An empty field, and version 0, is no limit.

    - `netns`: inode numbers of network namespaces.
    - `ports`, `addresses`: of either end; the others of the local or the remote end. A packet's local end is its source.
      Addresses are 16 bytes in network order, IPv4 as ::ffff:a.b.c.d.
    - `version`: of IP, 4 or 6.
    - `cgroup`: inode number of a cgroup of version 2: sockets of it and of those below it.

    A program at interfaces ignores `netns` and `cgroup`. One that does not know the ends of what it observes ignores all but these
    two (lab/probes/states/tracker.py).
    """

    netns: Collection[int] = ()
    ports: Collection[int] = ()
    local_ports: Collection[int] = ()
    remote_ports: Collection[int] = ()
    addresses: Collection[bytes] = ()
    local_addresses: Collection[bytes] = ()
    remote_addresses: Collection[bytes] = ()
    version: int = 0
    cgroup: int = 0


EVERYTHING = Choice()
