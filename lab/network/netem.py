"""The wire for kernels with netem: a bridge with a netem qdisc on each of its two ports."""

from time import monotonic_ns

from pyroute2 import IPRoute

from lab.linux.netns import inside
from lab.network import qdisc
from lab.network.conditions import Change, Conditions
from lab.network.link import Bridged, Place
from lab.network.offloads import turn_off


class Netem(Bridged):
    """A link that applies `Conditions` by a netem qdisc on the device where frames leave the wire. It keeps no log.

    Differences from the relay:

    - jitter reorders frames;
    - all conditions apply to address resolution;
    - the delay counts from the bridge;
    - before Linux 6.6 the kernel ignores the seed.
    """

    name = "netem"

    def __init__(self) -> None:
        super().__init__()
        self._wire = ""
        self._shaped: set[str] = set()

    def install(self, place: Place) -> None:
        """Join the devices. The hosts' offloads are turned off, since netem counts a super-frame as one frame."""
        self._wire = place.wire
        for host in place.hosts:
            turn_off(host)
        super().install(place)

    def apply(self, to_server: Conditions, to_client: Conditions) -> Change:
        """Change both queues. Waiting frames keep their delay."""
        return inside(self._wire, lambda: self._shape({"server": to_server, "client": to_client}))

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
