"""Load from `lab-load` (wire/load.c), and the network namespaces that carry it.

The generator is in C because Python cannot open a hundred thousand connections per second.
"""

import subprocess
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
from lab.paths import PROGRAMS
from lab.tcp import DEMO_PORT

PORT = 20_997
"""Port of the load. No other traffic uses it: it identifies the load's rows of tools for the whole machine."""

CHANGES_EACH = 10
"""State changes of one connection, both sockets together, if the client closes first."""

_LOOPBACK = "127.0.0.1"
_places = count()


class Load(NamedTuple):
    """Times of a load: total, CPU time of the client, and of each connection or request, in nanoseconds."""

    took_ns: int
    busy_ns: int
    each_ns: Integers

    @property
    def per_second(self) -> float:
        """Rate of connections or requests."""
        return len(self.each_ns) * 1e9 / self.took_ns


@dataclass(frozen=True)
class Place:
    """Ends of the load: the client's namespace, the server's namespace, and the server's address."""

    client: str
    server: str
    address: str
    port: int = PORT

    def connections(self, number: int, addresses: int = 1) -> Load:
        """Open and close connections one after the other."""
        return self._run("connections", number, 1, addresses)

    def requests(self, number: int, connections: int = 1, addresses: int = 1) -> Load:
        """Send requests of 64 bytes round-robin over `connections`. Each waits for its reply."""
        return self._run("requests", number, connections, addresses)

    def bulk(self, size: int) -> Load:
        """Send `size` bytes in one direction, as fast as possible."""
        return self._run("bulk", size, 1, 1)

    def _run(self, *what: object) -> Load:
        mode, number, connections, addresses = map(str, what)
        ends = [str(path_of(name)) for name in (self.server, self.client)]
        program = str(PROGRAMS / "lab-load")
        try:
            done = subprocess.run(
                [program, mode, number, connections, addresses, self.address, str(self.port), *ends],
                capture_output=True,
                check=True,
            )
        except FileNotFoundError:
            raise LabError(f"{program} is missing: run make setup") from None
        except subprocess.CalledProcessError as error:
            raise LabError(f"lab-load failed: {error.stderr.decode().strip()}") from error
        times_ns = np.frombuffer(done.stdout, np.int64)
        return Load(int(times_ns[0]), int(times_ns[1]), times_ns[2:])


@contextmanager
def loopback(address: str = _LOOPBACK, port: int = PORT) -> Iterator[Place]:
    """Create a network namespace whose loopback carries the load and no other traffic.

    Create one per load: the kernel keeps state of closed connections, which would slow down the next load. Both ends of
    each connection have `address`. It is added to the loopback interface unless it is 127.0.0.1.
    """
    name = f"{Instance.current().namespaces()}load-{next(_places)}"
    with ExitStack() as undo:
        undo.callback(remove, name)
        create(name)
        inside(name, lambda: _set_up(address))
        yield Place(name, name, address, port)


def across(net: Topology) -> Place:
    """Return a place with the client and server of a network, at the port that the probes observe by default."""
    return Place(net.client.name, net.server.name, net.server.ipv4, DEMO_PORT)


def _set_up(address: str) -> None:
    with IPRoute() as netlink:
        (lo,) = netlink.link_lookup(ifname="lo")
        netlink.link("set", index=lo, state="up")
        if address != _LOOPBACK:
            netlink.addr("add", index=lo, address=address, prefixlen=32)
    for path, value in (("ipv4/ip_local_port_range", "1024 65535"), ("core/somaxconn", "65535")):
        Path("/proc/sys/net", path).write_text(value, encoding="utf-8")
