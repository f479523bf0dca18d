"""Who carries the wire's frames: what every link can be asked to do, and the plainest of them."""

from dataclasses import dataclass
from pathlib import Path
from time import monotonic_ns
from typing import TYPE_CHECKING, Protocol

from pyroute2 import IPRoute

from lab.errors import FramesDropped, LabError
from lab.linux.netns import inside
from lab.network.conditions import Change, Conditions

if TYPE_CHECKING:
    from lab.network.frame_log import WireLog

SIDES = ("client", "server")  # the wire's devices, by the host they lead to
DEVICE = "eth0"  # each host's


@dataclass(frozen=True)
class Place:
    """Where a link goes: names of the wire's namespace, which has the devices `SIDES`, and of the hosts', which have `DEVICE`."""

    wire: str
    hosts: tuple[str, ...]


class Link(Protocol):
    """What joins the two devices of a wire. Installed once; its conditions may change while traffic runs.

    `name` says in results who carried the frames.
    """

    name: str

    def install(self, place: Place) -> None:
        """Join the wire's two devices, which are up."""

    def apply(self, to_server: Conditions, to_client: Conditions) -> Change:
        """Make the wire behave like this from now on. Raises `LabError` for what this link cannot do."""

    def waiting(self) -> int:
        """Count the frames that are on the wire now, and will leave it later."""

    def log(self) -> "WireLog | None":
        """Return what the wire has done until now, None if it keeps no log. Raises `LabError` when that is not the whole truth."""

    def remove(self) -> None:
        """End what outlives a namespace. Raises `LabError` if the wire did what it was not told to."""


def dropped(place: Place) -> int:
    """Count the frames that a device of the wire or of a host could not hand to its peer. Source: proc_pid_net(5), `dev`."""

    def read() -> int:
        lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
        # One namespace has the wire's sides, the others a host's device; the twelfth column is what was not transmitted.
        fields = [line.replace(":", " ").split() for line in lines]
        return sum(int(field[12]) for field in fields if field[0] in (*SIDES, DEVICE))

    return sum(inside(namespace, read) for namespace in (place.wire, *place.hosts))


class Drops:
    """Frames that the kernel drops between the namespaces from now on, each of them told once."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._told = dropped(place)

    def require_none(self) -> None:
        """Raise `FramesDropped` if there were any since it was last asked."""
        before, self._told = self._told, dropped(self._place)
        if self._told > before:
            raise FramesDropped(self._told - before)


def bridge(wire: IPRoute) -> dict[str, int]:
    """Join the wire's devices by a kernel bridge that only carries; returns their ifindex by side."""
    wire.link("add", ifname="wire", kind="bridge", br_stp_state=0, br_forward_delay=0, br_mcast_snooping=0)
    (index,) = wire.link_lookup(ifname="wire")
    wire.link("set", index=index, state="up")
    sides = {side: wire.link_lookup(ifname=side)[0] for side in SIDES}
    for device in sides.values():
        wire.link("set", index=device, master=index)
    return sides


class Bridge:
    """A wire that only carries: a kernel bridge without forwarding delay, spanning tree or multicast snooping."""

    name = "bridge"

    def __init__(self) -> None:
        self._drops: Drops | None = None

    def install(self, place: Place) -> None:
        """Join the devices."""

        def join() -> None:
            with IPRoute() as wire:
                bridge(wire)

        inside(place.wire, join)
        self._drops = Drops(place)

    def apply(self, to_server: Conditions, to_client: Conditions) -> Change:
        """Accept the conditions of a perfect wire only."""
        if to_server != Conditions() or to_client != Conditions():
            raise LabError("this wire is a plain bridge and can neither delay nor drop: leave its conditions out")
        now_ns = monotonic_ns()
        return Change(now_ns, now_ns)

    def waiting(self) -> int:
        """Nothing is held."""
        return 0

    def log(self) -> None:
        """Nobody has written anything down; raises `FramesDropped` if the kernel has not carried everything."""
        if self._drops:
            self._drops.require_none()

    def remove(self) -> None:
        """Nothing to do: the bridge goes with its namespace."""
