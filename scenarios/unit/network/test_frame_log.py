"""The wire's log: order of its records, bracketed times, and faults that raise."""

import numpy as np
import pytest

from lab.errors import FramesDropped, LabError
from lab.network.frame_log import DROPPED_BETWEEN, FRAME, NEVER, Direction, Fate, WireLog, hold_ns


def records(*rows):
    """Return records of (direction, ordinal, fate, arrived, sent); each time is known to 10 ns."""
    frames = np.zeros(len(rows), FRAME)
    for frame, (direction, ordinal, fate, arrived_ns, sent_ns) in zip(frames, rows, strict=True):
        frame["direction"], frame["ordinal"], frame["fate"] = direction, ordinal, fate
        frame["arrived_low_ns"], frame["arrived_high_ns"] = arrived_ns, arrived_ns + 10
        frame["sent_low_ns"], frame["sent_high_ns"] = (sent_ns, sent_ns + 10) if sent_ns != NEVER else (NEVER, NEVER)
    return frames


MIXED = records(
    (Direction.TO_SERVER, 2, Fate.LOST, 150, NEVER),
    (Direction.TO_CLIENT, 1, Fate.FORWARDED, 120, 180),
    (Direction.TO_SERVER, 1, Fate.FORWARDED, 100, 200),
    (Direction.TO_SERVER, 1, Fate.FORWARDED, 100, 201),
)


def test_a_direction_in_order_of_arrival():
    """`going` sorts by arrival, and a copy stays after its original."""
    frames = WireLog(MIXED).going(Direction.TO_SERVER)
    assert list(frames["ordinal"]) == [1, 1, 2]
    assert list(frames["sent_low_ns"]) == [200, 201, NEVER]


def test_a_hold_is_at_least_and_at_most():
    """The bounds are from the latest arrival to the earliest departure, and from the earliest to the latest."""
    shortest_ns, longest_ns = hold_ns(WireLog(MIXED).going(Direction.TO_CLIENT))
    assert (list(shortest_ns), list(longest_ns)) == ([50], [70])


def test_a_complete_log_does_not_raise():
    """Effects of the conditions are not faults."""
    WireLog(MIXED, waiting=3).require_whole()


def test_faults_are_named():
    """The error has every fault with its count."""
    log = WireLog(MIXED, faults={"frames that a device did not take": 2, "times that a device went away": 1})
    with pytest.raises(LabError, match=r"\(2 frames that a device did not take, 1 times that a device went away\)"):
        log.require_whole()


def test_drops_of_the_kernel_are_a_separate_error():
    """Drops between the namespaces alone raise FramesDropped. With another fault they are part of its error."""
    with pytest.raises(FramesDropped, match="dropped 3 frames") as raised:
        WireLog(MIXED, faults={DROPPED_BETWEEN: 3}).require_whole()
    assert raised.value.count == 3
    with pytest.raises(LabError, match=r"\(3 frames .*, 1 times") as also:
        WireLog(MIXED, faults={DROPPED_BETWEEN: 3, "times that a device went away": 1}).require_whole()
    assert not isinstance(also.value, FramesDropped)


def test_layout_of_a_record():
    """A record has 192 bytes, and the last 128 are the head."""
    assert FRAME.itemsize == 192
    assert FRAME.fields["head"][1] == 64
