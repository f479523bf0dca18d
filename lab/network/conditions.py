"""What the wire does to frames in one direction: stated once, whoever carries it out. Pure values, no kernel."""

from dataclasses import dataclass
from typing import NamedTuple

from lab.errors import LabError

FOREVER_NS = 1 << 62  # what nobody waits for still fits into 64 bits together with a time
MAX_DROPS = 64  # of wire/conditions.h
_FRACTIONS = ("loss", "duplicate", "reorder", "corrupt")


@dataclass(frozen=True)
class Conditions:
    """What happens to frames in one direction of the wire. The default is: nothing.

    `delay_ns` counts from a frame's arrival on the wire; `jitter_ns` changes it by up to as much, evenly, more or less.
    `loss`, `duplicate`, `reorder` and `corrupt` are fractions of the frames, 0 to 1: a reordered frame overtakes all that wait
    for their delay, a corrupt one has one bit flipped behind its Ethernet header. `drop` names frames to drop in any case,
    counted from 1 since these conditions hold. `rate_bps` is in bit/s of whole Ethernet frames, 0 for unlimited; `limit` is
    how many frames may wait before further ones are dropped. The same `seed` and the same frames give the same fates.
    Address resolution (ARP, neighbour discovery) is delayed, and otherwise left alone and not counted.
    """

    delay_ns: int = 0
    jitter_ns: int = 0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    corrupt: float = 0.0
    rate_bps: int = 0
    limit: int = 100_000
    seed: int = 0
    drop: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("delay_ns", "jitter_ns", "rate_bps", "seed"):
            value = getattr(self, name)
            if not isinstance(value, int) or not 0 <= value < FOREVER_NS:
                raise LabError(f"{name} is {value}: give a whole number from 0 to 2**62")
        for name in _FRACTIONS:
            value = getattr(self, name)
            if not 0 <= value <= 1:  # also refuses what is no number
                raise LabError(f"{name} is {value:g}: give a fraction of the frames, from 0 to 1")
        if 0 < self.rate_bps < 8:
            raise LabError(
                f"rate_bps is {self.rate_bps}, less than a byte in a second: give 8 or more, or 0 for unlimited"
            )
        if self.jitter_ns > self.delay_ns:
            raise LabError("jitter_ns is larger than delay_ns, and no frame leaves before it came: give a longer delay")
        if self.reorder and not self.delay_ns:
            raise LabError("reorder lets frames overtake those that wait, and here none does: give a delay too")
        if self.limit < 1:
            raise LabError(f"limit is {self.limit}, so that no frame could pass: give 1 or more")
        if len(self.drop) > MAX_DROPS or any(ordinal < 1 for ordinal in self.drop):
            raise LabError(f"drop names frames counted from 1, at most {MAX_DROPS} of them")

    @property
    def draws(self) -> bool:
        """Whether anything is left to chance, so that the seed matters."""
        return bool(self.jitter_ns) or any(getattr(self, name) for name in _FRACTIONS)

    def transmission_ns(self, length: int) -> int:
        """How long a frame of this many bytes occupies the wire at `rate_bps`, rounded up to a nanosecond."""
        return -(-length * 8_000_000_000 // self.rate_bps) if self.rate_bps else 0


class Change(NamedTuple):
    """When the wire's conditions changed, `CLOCK_MONOTONIC`, nanoseconds.

    A frame that arrived before `earliest_ns` met the old ones, one that arrived at `latest_ns` or later the new ones.
    """

    earliest_ns: int
    latest_ns: int
