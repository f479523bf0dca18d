"""The choice of a link for a topology, by the features that the caller needs and the capabilities of the kernel."""

from functools import cache

from lab.doctor import capabilities
from lab.errors import LabError
from lab.network.link import Bridge, Link
from lab.network.netem import Netem
from lab.network.relay import Relay

_LINKS: dict[str, type[Netem] | type[Relay]] = {link.name: link for link in (Netem, Relay)}


def wire(*, conditions: bool = True, log: bool = False) -> Link:
    """Return a link that can apply `conditions`, and that keeps a `log` of every frame if asked to.

    - With a log: the relay, the only link that keeps one.
    - Without conditions: a bridge.
    - Otherwise: netem if the kernel has it, since delays kept by the kernel are the most exact; else the relay.

    Raises `LabError` if the kernel supports neither.
    """
    if log:
        return Relay()
    if not conditions:
        return Bridge()
    link = _LINKS.get(_chosen())
    if link is None:
        raise LabError("this kernel has neither netem nor packet sockets: boot one with CONFIG_PACKET=y")
    return link()


@cache
def _chosen() -> str:
    """Return the name of the link that doctor chooses for conditions."""
    (choice,) = (it for it in capabilities.choices(capabilities.examine()) if it.observation == "link condition")
    return choice.chosen
