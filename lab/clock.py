"""Clocks: conversion from the probes' clock to wall-clock time, and whether the machine's time is real or virtual."""

import os
import time
from datetime import UTC, datetime
from functools import lru_cache

CLOCK, WALL = "CLOCK_MONOTONIC", "CLOCK_REALTIME"
"""The clock of all recorded times, and the clock of times that are printed on request."""

GUEST = "LAB_CLOCK"
"""The environment variable with the kind of clock of a guest (`lab vm --clock`): `REAL` or `VIRTUAL`."""

REAL, VIRTUAL = "real", "virtual"


def of_guest() -> str:
    """Return `REAL` or `VIRTUAL`.

    A virtual clock counts instructions (`qemu -icount`): only injected delays take a notable time.
    """
    return os.environ.get(GUEST, REAL)


def wall_offset_ns() -> int:
    """Return the nanoseconds to add to a time on `CLOCK_MONOTONIC` to get Unix time (`CLOCK_REALTIME`), at this moment.

    Each reading of the wall clock is between two readings of the other clock, and the reading with the closest two is
    used. The error is at most half their distance, usually far less than a microsecond. The result includes all steps
    of the wall clock (by NTP or by hand) until the call.
    """
    readings = []
    for _ in range(5):
        before_ns, wall_ns, after_ns = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        readings.append((after_ns - before_ns, wall_ns - (before_ns + after_ns) // 2))
    return min(readings)[1]


@lru_cache(64)
def _offset_ns(_second: int) -> int:
    return wall_offset_ns()


def unix_ns(time_ns: int) -> int:
    """Return a time on `CLOCK_MONOTONIC` as Unix time, by the clocks' difference at the first call for its second.

    Times of the same second keep their order and their distances, and each has one result.
    """
    return time_ns + _offset_ns(time_ns // 1_000_000_000)


def rfc3339(time_ns: int) -> str:
    """Return a time on `CLOCK_MONOTONIC` as wall-clock time in UTC with nanoseconds (RFC 3339, 5.6)."""
    seconds, rest_ns = divmod(unix_ns(time_ns), 1_000_000_000)
    return f"{_date(seconds)}.{rest_ns:09}Z"


@lru_cache(1024)
def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def time_of_day(time_ns: object) -> str:
    """Return a time on `CLOCK_MONOTONIC` as local time of day with microseconds."""
    if not isinstance(time_ns, int):
        raise TypeError("a time must be an integer in nanoseconds")
    return datetime.fromtimestamp(unix_ns(time_ns) / 1e9).astimezone().strftime("%H:%M:%S.%f")
