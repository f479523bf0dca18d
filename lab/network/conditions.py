"""Conditions of the wire in one direction, as plain values. Every kind of link takes the same `Conditions`."""

from dataclasses import dataclass
from typing import NamedTuple

from lab.errors import LabError

FOREVER_NS = 1 << 62  # longer than any delay; the sum with a time still fits into 64 bits
MAX_DROPS = 64  # of wire/conditions.h
_FRACTIONS = ("loss", "duplicate", "reorder", "corrupt")


@dataclass(frozen=True)
class Conditions:
    """Conditions of one direction of the wire. The default is a perfect wire.

    - `delay_ns` counts from the arrival of a frame on the wire.
    - `jitter_ns` adds a uniform random time from `-jitter_ns` to `jitter_ns` to the delay.
    - `loss`, `duplicate`, `reorder` and `corrupt` are fractions of the frames, from 0 to 1. A reordered frame overtakes
      all frames that wait for their delay. A corrupt frame has one bit flipped after its Ethernet header.
    - `drop` lists frames to drop, counted from 1 since these conditions were applied.
    - `rate_bps` is in bit/s of whole Ethernet frames; 0 is unlimited.
    - `limit` is the number of frames that may wait; further frames are dropped.
    - `seed` determines the random choices: the same seed and the same frames give the same fates.

    Address resolution (ARP, neighbour discovery) is delayed, but not counted, and no other condition applies to it.
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
            if not 0 <= value <= 1:  # also refuses NaN
                raise LabError(f"{name} is {value:g}: give a fraction of the frames, from 0 to 1")
        if 0 < self.rate_bps < 8:
            raise LabError(
                f"rate_bps is {self.rate_bps}, less than a byte per second: give 8 or more, or 0 for unlimited"
            )
        if self.jitter_ns > self.delay_ns:
            raise LabError("jitter_ns is larger than delay_ns, so a delay could be negative: give a longer delay")
        if self.reorder and not self.delay_ns:
            raise LabError("reorder needs frames that wait for their delay: give a delay too")
        if self.limit < 1:
            raise LabError(f"limit is {self.limit}, so no frame could pass: give 1 or more")
        if len(self.drop) > MAX_DROPS or any(ordinal < 1 for ordinal in self.drop):
            raise LabError(f"drop lists frames by number: give at most {MAX_DROPS} numbers, from 1 on")

    @property
    def draws(self) -> bool:
        """Whether these conditions make random choices, so that the seed matters."""
        return bool(self.jitter_ns) or any(getattr(self, name) for name in _FRACTIONS)

    def transmission_ns(self, length: int) -> int:
        """Return how long a frame of `length` bytes occupies the wire at `rate_bps`, rounded up to a nanosecond."""
        return -(-length * 8_000_000_000 // self.rate_bps) if self.rate_bps else 0


class Change(NamedTuple):
    """Time of a change of the wire's conditions, in nanoseconds on `CLOCK_MONOTONIC`.

    The old conditions apply to frames that arrive before `earliest_ns`, the new ones to frames from `latest_ns` on.
    """

    earliest_ns: int
    latest_ns: int
