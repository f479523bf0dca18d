"""The kernel's reasons for freeing a packet, by number: `enum skb_drop_reason` of the running kernel (net/dropreason.h)."""

from collections.abc import Collection
from functools import cache
from typing import Any

from lab.linux.btf import Btf

_PREFIX, _SUBSYSTEM = "SKB_DROP_REASON_", 16  # a subsystem has its own reasons: its number is in the upper bits
NO_LOSS = frozenset(
    (
        "NOT_SPECIFIED",
        "SOCKET_CLOSE",
        "QUEUE_PURGE",
        "OTHERHOST",
        "TCP_OFOMERGE",
        "TCP_RESET",
        "TCP_OLD_DATA",
        "TCP_OLD_ACK",
    )
)
"""Reasons of packets that have done their work, or were not for this host: the end of a socket, data that is there already."""


@cache
def _names() -> dict[int, str]:
    return Btf.of_kernel().enumerators("skb_drop_reason")


ACCEPT_QUEUE_FULL = "ACCEPT_QUEUE_FULL"
"""In place of NO_SOCKET, where the packet was for a listener without room. The kernel has no such reason."""


def reason_of(row: Any) -> str:
    """Return what a row shows as the reason."""
    kernel = reason_text(int(row["reason"]))
    return ACCEPT_QUEUE_FULL if row["full"] and kernel == "NO_SOCKET" else kernel


def reason_text(number: int) -> str:
    """Return a reason's name without its prefix; of a subsystem (Open vSwitch, wireless) its number and the reason's."""
    if number >> _SUBSYSTEM:
        return f"SUBSYSTEM_{number >> _SUBSYSTEM}_{number & ((1 << _SUBSYSTEM) - 1)}"
    return _names().get(number, str(number)).removeprefix(_PREFIX)


def numbers(names: Collection[str]) -> list[int]:
    """Return the numbers of reasons; without those that this kernel does not have."""
    return [number for number, name in _names().items() if name.removeprefix(_PREFIX) in names]
