"""The wire's log: arrival, departure and fate of each frame. It is the reference for the path between the hosts."""

from dataclasses import dataclass, field
from enum import IntEnum, IntFlag

import numpy as np

from lab.arrays import Integers, Rows, in_order
from lab.errors import FramesDropped, LabError
from lab.network import segment_parser
from lab.tcp import Flow

HEAD_BYTES = 128
NEVER = -1

DROPPED_BETWEEN = "frames that the kernel dropped between the namespaces"
"""The fault that neither the lab nor a device has caused: the backlog of a busy CPU was full."""

# One record for each frame and each copy, in the order in which their fates were decided. Times are nanoseconds on
# CLOCK_MONOTONIC; `low` and `high` are the earliest and the latest possible. The layout is that of wire/record.h;
# Relay.install() compares the two.
FRAME = np.dtype(
    [
        ("arrived_low_ns", "<i8"),  # the kernel's receive stamp; its conversion to CLOCK_MONOTONIC gives the interval
        ("arrived_high_ns", "<i8"),
        ("due_ns", "<i8"),  # when the frame should leave, or should have left if it is not forwarded
        ("sent_low_ns", "<i8"),  # stamps around send(); NEVER if the frame is not forwarded
        ("sent_high_ns", "<i8"),
        ("ordinal", "<u8"),  # number of the frame in its direction, from 1; a copy has the number of its original
        ("conditions", "<u4"),  # number of the Change whose conditions applied; 0 before the first
        ("length", "<u4"),  # bytes, Ethernet header included
        ("flipped_bit", "<i4"),  # from the start of the frame; -1 for none
        ("direction", "u1"),
        ("fate", "u1"),
        ("marks", "u1"),
        ("pad", "u1"),
        ("head", "u1", (HEAD_BYTES,)),  # beginning of the frame as it arrived, padded with zeros
    ]
)


class Direction(IntEnum):
    """Direction of a frame, by its receiver."""

    TO_SERVER = 0
    TO_CLIENT = 1


class Fate(IntEnum):
    """Fate of a frame. Every fate except `REFUSED` follows from the conditions."""

    FORWARDED = 0
    LOST = 1
    OVERFLOWED = 2
    REFUSED = 3


class Mark(IntFlag):
    """Other effects of the conditions on a frame."""

    COPY = 1
    HURRIED = 2
    CORRUPTED = 4


@dataclass(frozen=True)
class WireLog:
    """The wire's log up to one moment; `frames` is an array of `FRAME`.

    `waiting` counts the frames that had arrived and not yet left. `faults` counts, by name, events that the conditions
    do not ask for; if there are any, the log is not complete.
    """

    frames: Rows
    waiting: int = 0
    faults: dict[str, int] = field(default_factory=dict)

    def require_whole(self) -> None:
        """Raise `LabError` with the faults, if there are any.

        The error is `FramesDropped` if the kernel's drops between the namespaces are the only fault: then sending the
        same traffic again may succeed.
        """
        if self.faults.keys() == {DROPPED_BETWEEN}:
            raise FramesDropped(self.faults[DROPPED_BETWEEN])
        if self.faults:
            counts = ", ".join(f"{count} {fault}" for fault, count in self.faults.items())
            raise LabError(
                f"the wire's log is not complete ({counts}): record again, with less traffic or a larger log"
            )

    def going(self, direction: Direction) -> Rows:
        """Return the records of one direction in the order of arrival."""
        frames = self.frames[self.frames["direction"] == direction]
        return in_order(frames, "ordinal")

    def tcp(self, flow: Flow | None = None) -> Rows:
        """Return the TCP segments (`segment_parser.SEGMENT`) of all flows, or of one `flow`, in order of arrival."""
        found = segment_parser.parse(self.frames["head"], self.frames["length"])
        if flow:
            found = found[segment_parser.belongs(found, flow) | segment_parser.belongs(found, flow.reversed())]
        return found.take(np.argsort(self.frames["arrived_low_ns"][found["frame"]], kind="stable"))


def hold_ns(frames: Rows) -> tuple[Integers, Integers]:
    """Return the least and the greatest time that each forwarded frame can have been on the wire."""
    return frames["sent_low_ns"] - frames["arrived_high_ns"], frames["sent_high_ns"] - frames["arrived_low_ns"]
