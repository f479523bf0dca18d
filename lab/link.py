"""What a link does to frames, and who does it. Conditions are stated once; the kernel decides what carries them out."""

from dataclasses import dataclass, fields
from typing import Protocol

from pyroute2 import IPRoute

from lab.errors import LabError


@dataclass(frozen=True)
class Conditions:
    """What happens to frames in one direction of the wire. The default is: nothing.

    `delay_ns` counts from a frame's arrival on the wire, in integer nanoseconds.
    """

    delay_ns: int = 0

    def __post_init__(self) -> None:
        for condition in fields(self):
            if getattr(self, condition.name) < 0:
                raise LabError(f"{condition.name} cannot be negative: give 0 or more")


class Link(Protocol):
    """What joins the two devices of a wire. Installed once; its conditions may change while traffic runs."""

    def install(self, wire: IPRoute, client_side: int, server_side: int) -> None:
        """Join two devices, given by ifindex, inside the wire's namespace."""

    def apply(self, to_server: Conditions, to_client: Conditions) -> None:
        """Make the wire behave like this from now on. Raises `LabError` for what this link cannot do."""


class Bridge:
    """A wire that only carries: a kernel bridge without forwarding delay, spanning tree or multicast snooping."""

    def install(self, wire: IPRoute, client_side: int, server_side: int) -> None:
        """Join two devices by a bridge."""
        wire.link("add", ifname="wire", kind="bridge", br_stp_state=0, br_forward_delay=0, br_mcast_snooping=0)
        (bridge,) = wire.link_lookup(ifname="wire")
        wire.link("set", index=bridge, state="up")
        for device in (client_side, server_side):
            wire.link("set", index=device, master=bridge)

    def apply(self, to_server: Conditions, to_client: Conditions) -> None:
        """Accept the conditions of a perfect wire only."""
        if to_server != Conditions() or to_client != Conditions():
            raise LabError("this wire is a plain bridge and can neither delay nor drop: leave its conditions out")
