"""Load from `lab-load` (wire/load.c), which can do what neither end in Python could: hundred thousand connections a second."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pyroute2 import IPRoute

from lab.arrays import Integers
from lab.errors import LabError
from lab.linux.instance import Instance
from lab.linux.netns import create, inside, path_of, remove
from lab.network.topology import Topology

PORT = 20_997
"""Nobody else's: peers see the whole machine, and their rows are told by this port."""

CHANGES_EACH = 10
"""Changes of state of a connection that the client closes first, both ends together."""

_LOOPBACK = "127.0.0.1"
_places = count()


class Load(NamedTuple):
    """What was done: nanoseconds for all of it, those in which the client had a processor, and each connection's or request's."""

    took_ns: int
    busy_ns: int
    each_ns: Integers

    @property
    def per_second(self) -> float:
        """Connections or requests."""
        return len(self.each_ns) * 1e9 / self.took_ns


@dataclass(frozen=True)
class Place:
    """Where load goes: from the client's namespace to an address that the server's has."""

    client: str
    server: str
    address: str
    port: int = PORT

    def connections(self, number: int, addresses: int = 1) -> Load:
        """Open and close connections one after the other."""
        return self._run("connections", number, 1, addresses)

    def requests(self, number: int, connections: int = 1, addresses: int = 1) -> Load:
        """Send requests of 64 bytes, each over the next of so many connections, and wait for the reply."""
        return self._run("requests", number, connections, addresses)

    def bulk(self, size: int) -> Load:
        """Send bytes in one direction, as fast as they go."""
        return self._run("bulk", size, 1, 1)

    def _run(self, *what: object) -> Load:
        mode, number, connections, addresses = map(str, what)
        ends = [str(path_of(name)) for name in (self.server, self.client)]
        program = str(Path(sys.prefix) / "bin" / "lab-load")
        try:
            done = subprocess.run(
                [program, mode, number, connections, addresses, self.address, str(self.port), *ends],
                capture_output=True,
                check=True,
            )
        except FileNotFoundError:
            raise LabError(f"{program} is missing: run make setup") from None
        except subprocess.CalledProcessError as error:
            raise LabError(f"the load ended early ({error.stderr.decode().strip()}): see what it says") from error
        told = np.frombuffer(done.stdout, np.int64)
        return Load(int(told[0]), int(told[1]), told[2:])


@contextmanager
def loopback(address: str = _LOOPBACK) -> Iterator[Place]:
    """Make a network namespace whose loopback carries the load: the least that a connection can cost, and nobody else's traffic.

    One a load: what a kernel still keeps of thousands of closed connections is not to be in the way of the next. Both ends of a
    connection have the `address`, which the loopback is given if it is not its own.
    """
    name = f"lab-{Instance.current().name}-load-{next(_places)}"
    with ExitStack() as undo:
        undo.callback(remove, name)
        create(name)
        inside(name, lambda: _set_up(address))
        yield Place(name, name, address)


def across(net: Topology) -> Place:
    """Return the place whose load goes from the client to the server of a network."""
    return Place(net.client.name, net.server.name, net.server.ipv4)


def _set_up(address: str) -> None:
    with IPRoute() as netlink:
        (lo,) = netlink.link_lookup(ifname="lo")
        netlink.link("set", index=lo, state="up")
        if address != _LOOPBACK:
            netlink.addr("add", index=lo, address=address, prefixlen=32)
    for path, value in (("ipv4/ip_local_port_range", "1024 65535"), ("core/somaxconn", "65535")):
        Path("/proc/sys/net", path).write_text(value)
