"""The wire's log: what became of each frame and when. The truth of everything that happens between two hosts."""

from dataclasses import dataclass, field
from enum import IntEnum, IntFlag

import numpy as np

from lab.arrays import Integers, Rows
from lab.errors import FramesDropped, LabError
from lab.network import segment_parser
from lab.tcp import Flow

HEAD_BYTES = 128
NEVER = -1

DROPPED_BETWEEN = "frames that the kernel dropped between the namespaces"
"""The one fault that is nobody's doing: a busy processor's backlog was full."""

# One record for each frame and each copy, in the order in which their fates were sealed. Equal to wire/record.h, which is
# checked when a relay starts. Times are CLOCK_MONOTONIC in nanoseconds; `low` and `high` are the earliest and latest possible.
FRAME = np.dtype(
    [
        ("arrived_low_ns", "<i8"),  # the kernel's receive stamp; what is not known exactly is its conversion
        ("arrived_high_ns", "<i8"),
        ("due_ns", "<i8"),  # when it should leave; of a frame that is not forwarded, when it should have
        ("sent_low_ns", "<i8"),  # stamps around send(): NEVER for a frame that is not forwarded
        ("sent_high_ns", "<i8"),
        ("ordinal", "<u8"),  # counts the frames of its direction from 1; copies share it
        ("conditions", "<u4"),  # the number of those that applied: 0, or the Change that they came with
        ("length", "<u4"),  # bytes, Ethernet header included
        ("flipped_bit", "<i4"),  # counted from the frame's start, -1 for none
        ("direction", "u1"),
        ("fate", "u1"),
        ("marks", "u1"),
        ("pad", "u1"),
        ("head", "u1", (HEAD_BYTES,)),  # the frame's beginning as it arrived, zero beyond its end
    ]
)


class Direction(IntEnum):
    """Where a frame is going."""

    TO_SERVER = 0
    TO_CLIENT = 1


class Fate(IntEnum):
    """What became of a frame. Only `REFUSED` is not what the wire was told to do."""

    FORWARDED = 0
    LOST = 1
    OVERFLOWED = 2
    REFUSED = 3


class Mark(IntFlag):
    """What else was done to it."""

    COPY = 1
    HURRIED = 2
    CORRUPTED = 4


@dataclass(frozen=True)
class WireLog:
    """What the wire has done until now; `frames` is an array of `FRAME`.

    `waiting` frames had arrived and not yet left. `faults` counts what a wire is not told to do, by its name; where it is not
    empty, the log is not the whole truth.
    """

    frames: Rows
    waiting: int = 0
    faults: dict[str, int] = field(default_factory=dict)

    def require_whole(self) -> None:
        """Raise `LabError` naming what happened on the wire that it was not told to do, or what is not in the log.

        It is `FramesDropped` when all of it is the kernel's doing: then the same traffic, sent again, may well be carried whole.
        """
        if self.faults.keys() == {DROPPED_BETWEEN}:
            raise FramesDropped(self.faults[DROPPED_BETWEEN])
        if self.faults:
            told = ", ".join(f"{count} {fault}" for fault, count in self.faults.items())
            raise LabError(
                f"the wire's log is not the whole truth ({told}): record again, with less traffic or more room"
            )

    def going(self, direction: Direction) -> Rows:
        """Return the records of one direction in the order of arrival."""
        frames = self.frames[self.frames["direction"] == direction]
        return frames[np.argsort(frames["ordinal"], kind="stable")]

    def tcp(self, flow: Flow | None = None) -> Rows:
        """Return the TCP segments (`segments.SEGMENT`) of the log, or of one flow in both directions, in order of arrival."""
        found = segment_parser.parse(self.frames["head"], self.frames["length"])
        if flow:
            found = found[segment_parser.belongs(found, flow) | segment_parser.belongs(found, flow.reversed())]
        return found[np.argsort(self.frames["arrived_low_ns"][found["frame"]], kind="stable")]


def hold_ns(frames: Rows) -> tuple[Integers, Integers]:
    """How long forwarded frames were on the wire, at least and at most."""
    return frames["sent_low_ns"] - frames["arrived_high_ns"], frames["sent_high_ns"] - frames["arrived_low_ns"]
