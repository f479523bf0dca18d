"""Replay of a capture: its frames are sent with their original gaps, or faster or slower, each with its timestamps."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from lab.errors import LabError
from lab.traffic.crafted.pcap_reader import Captured, captured
from lab.traffic.crafted.send import Sender, one_processor, wait_until


class Replayed(NamedTuple):
    """A sent frame: its number in the file, the time at which it was due, and the times before and after send()."""

    number: int
    frame: Captured
    due_ns: int
    before_ns: int
    after_ns: int


def replay(
    path: Path, sender: Sender, *, speed: float | None = 1.0, pause: Callable[[float], object] = time.sleep
) -> Iterator[Replayed]:
    """Send the frames of a capture, and yield each one after it was sent.

    - `speed` is a factor: 2 halves the gaps, None removes them.
    - Due times count from the first frame, so a late frame does not delay the next. A time that goes backwards counts
      as no gap.
    - `pause(seconds)` waits between two frames, for at most that time. If it returns a true value, the replay ends.

    Raises `LabError` if the file cannot be read to its end, and for a frame that the interface refuses. The frames
    before have been sent.
    """
    due_ns = start_ns = time.monotonic_ns()
    began_ns: int | None = None
    with one_processor():
        for number, frame in enumerate(captured(path), 1):
            if speed is None:
                due_ns = time.monotonic_ns()
            elif frame.time_ns is None:
                raise LabError(f"frame {number} of {path} has no time, so its gap is unknown: give --at-once")
            else:
                if began_ns is None:
                    start_ns, began_ns = time.monotonic_ns(), frame.time_ns
                due_ns = max(due_ns, start_ns + round((frame.time_ns - began_ns) / speed))
            if wait_until(due_ns, pause) or pause(0):
                return
            try:
                before_ns, after_ns = sender.send(frame.data)
            except LabError as error:
                raise LabError(f"frame {number} of {path} was not sent: {error}") from error
            yield Replayed(number, frame, due_ns, before_ns, after_ns)
