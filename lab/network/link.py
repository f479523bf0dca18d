"""Links, which carry the wire's frames: their common interface, their drop counters, and the plain bridge."""

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
    """Namespaces that a link joins, by name: the wire's has the devices `SIDES`, each host's has `DEVICE`.

    `others` are the further namespaces of the network, in which frames can be dropped too.
    """

    wire: str
    hosts: tuple[str, ...]
    others: tuple[str, ...] = ()


class Link(Protocol):
    """A connection of the wire's two devices. It is installed once; its conditions may change while traffic runs.

    `name` identifies the kind of link in the results.
    """

    name: str

    def install(self, place: Place) -> None:
        """Join the wire's two devices, which must be up."""

    def apply(self, to_server: Conditions, to_client: Conditions) -> Change:
        """Change the conditions and return when they changed. Raises `LabError` for conditions that the link lacks."""

    def waiting(self) -> int:
        """Return the number of frames that are on the wire and will leave it later."""

    def log(self) -> "WireLog | None":
        """Return the log so far, or None if the link keeps none. Raises `LabError` if the wire had faults."""

    def remove(self) -> None:
        """End everything that does not end with the namespace. Raises `LabError` if the wire had faults."""


def dropped(place: Place) -> int:
    """Return how many frames the devices of all namespaces could not pass to their peers.

    Source: `/proc/net/dev`, proc_pid_net(5).
    """

    def read() -> int:
        lines = Path("/proc/thread-self/net/dev").read_text(encoding="utf-8").splitlines()[2:]
        # Field 12 is the transmit column `drop`: the name, eight receive columns, then bytes, packets, errs and drop.
        fields = [line.replace(":", " ").split() for line in lines]
        return sum(int(field[12]) for field in fields if field[0] != "lo")

    return sum(inside(namespace, read) for namespace in (place.wire, *place.hosts, *place.others) if namespace)


class Drops:
    """Counter of the frames that the kernel drops between the namespaces. Each drop is reported once."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._reported = dropped(place)

    def require_none(self) -> None:
        """Raise `FramesDropped` if frames were dropped since the last call."""
        before, self._reported = self._reported, dropped(self._place)
        if self._reported > before:
            raise FramesDropped(self._reported - before)


class Unwired:
    """The link of a network without a wire: it has no conditions and keeps no log, and it counts what the kernel drops."""

    name = "none"

    def __init__(self, *namespaces: str) -> None:
        self._drops = Drops(Place("", namespaces))

    def install(self, place: Place) -> None:
        """Raise `LabError`: there is no wire to install it in."""
        raise LabError(f"there is no wire in {place.wire}: choose a network with one")

    def apply(self, to_server: Conditions, to_client: Conditions) -> Change:
        """Accept the conditions of a perfect wire only."""
        if to_server != Conditions() or to_client != Conditions():
            raise LabError("this network has no wire that could delay or drop: leave its conditions out")
        now_ns = monotonic_ns()
        return Change(now_ns, now_ns)

    def waiting(self) -> int:
        """Return 0: nothing holds frames."""
        return 0

    def log(self) -> None:
        """Raise `FramesDropped` if the kernel dropped frames between the namespaces. There is no log to return."""
        self._drops.require_none()

    def remove(self) -> None:
        """Do nothing: the interfaces go with their namespaces."""


class Bridged:
    """Base of links that join the wire's devices by a kernel bridge and keep no log.

    The bridge has no forwarding delay, no spanning tree and no multicast snooping.
    """

    def __init__(self) -> None:
        self._sides: dict[str, int] = {}  # ifindex of each device
        self._drops: Drops | None = None

    def install(self, place: Place) -> None:
        """Join the wire's two devices."""
        self._sides = inside(place.wire, _bridge)
        self._drops = Drops(place)

    def waiting(self) -> int:
        """Return 0: a bridge holds no frames, and netem's queues are not read."""
        return 0

    def log(self) -> None:
        """Raise `FramesDropped` if the kernel dropped frames between the namespaces. There is no log to return."""
        if self._drops:
            self._drops.require_none()

    def remove(self) -> None:
        """Do nothing: the kernel removes the bridge and its queues with the namespace."""


class Bridge(Bridged):
    """A perfect wire: it forwards every frame at once."""

    name = "bridge"

    def apply(self, to_server: Conditions, to_client: Conditions) -> Change:
        """Accept the conditions of a perfect wire only."""
        if to_server != Conditions() or to_client != Conditions():
            raise LabError("this wire is a plain bridge and can neither delay nor drop: leave its conditions out")
        now_ns = monotonic_ns()
        return Change(now_ns, now_ns)


def _bridge() -> dict[str, int]:
    """Join the devices of the current namespace; return their ifindex by side."""
    with IPRoute() as wire:
        wire.link("add", ifname="wire", kind="bridge", br_stp_state=0, br_forward_delay=0, br_mcast_snooping=0)
        (index,) = wire.link_lookup(ifname="wire")
        wire.link("set", index=index, state="up")
        sides = {side: wire.link_lookup(ifname=side)[0] for side in SIDES}
        for device in sides.values():
            wire.link("set", index=device, master=index)
        return sides
