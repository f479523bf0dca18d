"""Which link a topology gets: what was asked of it and what the kernel can do decide, here and nowhere else."""

from functools import cache

from lab.doctor import capabilities
from lab.errors import LabError
from lab.network.link import Bridge, Link
from lab.network.netem import Netem
from lab.network.relay import Relay

_WAYS: dict[str, type[Netem] | type[Relay]] = {link.name: link for link in (Netem, Relay)}


def wire(*, conditions: bool = True, log: bool = False) -> Link:
    """Return a link that can have `conditions`, and a `log` of every frame, where they are wanted.

    A wire that is to do nothing is a bridge. Delays and losses are netem's where the kernel has it, as the kernel itself keeps
    them best; only the relay keeps a log. Raises `LabError` where nothing of the kind is possible.
    """
    if log:
        return Relay()
    if not conditions:
        return Bridge()
    link = _WAYS.get(_way())
    if link is None:
        raise LabError("this kernel has neither netem nor packet sockets: boot one with CONFIG_PACKET=y")
    return link()


@cache
def _way() -> str:
    (choice,) = (it for it in capabilities.choices(capabilities.examine()) if it.observation == "link condition")
    return choice.chosen
