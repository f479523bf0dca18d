"""From the clock of the probes to the clock on the wall: the only place where one is turned into the other."""

import time

WALL = "CLOCK_REALTIME"


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
