"""What the time is: from the clock of the probes to the clock on the wall, in this one place, and whether it is real."""

import os
import time
from datetime import datetime

CLOCK, WALL = "CLOCK_MONOTONIC", "CLOCK_REALTIME"
"""Of all times that are recorded; and of those that a user has asked for instead."""

GUEST = "LAB_CLOCK"
"""The environment variable that says what the time of a guest is (`lab vm --clock`)."""

REAL, VIRTUAL = "real", "virtual"


def of_guest() -> str:
    """Return `VIRTUAL` where time is counted instructions: then nothing but injected delays takes any. Else `REAL`."""
    return os.environ.get(GUEST, REAL)


def wall_offset_ns() -> int:
    """Nanoseconds to add to a time on `CLOCK_MONOTONIC` to have it on `CLOCK_REALTIME` (Unix time), as both stand now.

    Of several readings the one between the two closest stamps counts; it is wrong by at most half their distance, commonly far
    less than a microsecond. A step of the wall clock (by NTP, or by hand) is in what is asked for after it.
    """
    readings = []
    for _ in range(5):
        before_ns, wall_ns, after_ns = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        readings.append((after_ns - before_ns, wall_ns - (before_ns + after_ns) // 2))
    return min(readings)[1]


def time_of_day(time_ns: object) -> str:
    """Return a time on `CLOCK_MONOTONIC` as local wall-clock time, to the microsecond, by the clocks' difference now."""
    if not isinstance(time_ns, int):
        raise TypeError("a time is an integer of nanoseconds")
    wall_ns = time_ns + time.time_ns() - time.monotonic_ns()
    return datetime.fromtimestamp(wall_ns / 1e9).astimezone().strftime("%H:%M:%S.%f")
