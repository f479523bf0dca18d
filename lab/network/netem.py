"""A wire for kernels that have netem: a bridge whose two ports queue what they send as the conditions say."""

from time import monotonic_ns

from pyroute2 import IPRoute

from lab.linux.netns import inside
from lab.network import qdisc
from lab.network.conditions import Change, Conditions
from lab.network.link import Drops, Place, bridge
from lab.network.offloads import turn_off


class Netem:
    """A link that does what `Conditions` says by netem on the device where frames leave the wire. It keeps no log.

    Not as the relay does it: jitter reorders frames, address resolution gets no exception, the delay counts from the bridge,
    and before Linux 6.6 the kernel ignores the seed.
    """

    name = "netem"

    def __init__(self) -> None:
        self._wire = ""
        self._drops: Drops | None = None
        self._sides: dict[str, int] = {}
        self._shaped: set[str] = set()

    def install(self, place: Place) -> None:
        """Join the devices; frames must be whole for netem to count them one by one."""
        self._wire = place.wire
        for host in place.hosts:
            turn_off(host)
        self._sides = inside(place.wire, _join)
        self._drops = Drops(place)

    def apply(self, to_server: Conditions, to_client: Conditions) -> Change:
        """Change both queues; frames that wait keep their delay."""
        return inside(self._wire, lambda: self._shape({"server": to_server, "client": to_client}))

    def waiting(self) -> int:
        """Nobody asks the kernel's queues what they hold."""
        return 0

    def log(self) -> None:
        """Nobody has written anything down; raises `FramesDropped` for what the kernel has dropped beside netem."""
        if self._drops:
            self._drops.require_none()

    def remove(self) -> None:
        """Nothing to do: bridge and queues go with their namespace."""

    def _shape(self, sides: dict[str, Conditions]) -> Change:
        options = {side: qdisc.netem(conditions) for side, conditions in sides.items()}
        with IPRoute() as wire:
            before_ns = monotonic_ns()
            for side, conditions in sides.items():
                if conditions != Conditions():
                    qdisc.replace(wire, self._sides[side], self.name, options[side])
                    self._shaped.add(side)
                elif side in self._shaped:
                    qdisc.remove(wire, self._sides[side])
                    self._shaped.remove(side)
            return Change(before_ns, monotonic_ns())


def _join() -> dict[str, int]:
    with IPRoute() as wire:
        return bridge(wire)
