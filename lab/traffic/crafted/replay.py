"""Sending the frames of a capture again at the pace at which they were captured, or another, each stamped as it is sent."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from lab.errors import LabError
from lab.traffic.crafted.pcap_reader import Captured, captured
from lab.traffic.crafted.send import Sender, one_processor, wait_until


class Replayed(NamedTuple):
    """A frame that was sent, its number in the file, when it was due, and stamps before and after it was sent."""

    number: int
    frame: Captured
    due_ns: int
    before_ns: int
    after_ns: int


def replay(
    path: Path, sender: Sender, *, speed: float | None = 1.0, pause: Callable[[float], object] = time.sleep
) -> Iterator[Replayed]:
    """Yield each frame when it has been sent: `speed` times as fast as they were captured, or with None at once.

    A gap counts from the first frame, so that one that is late does not delay the next; a time that goes backwards is no gap. `pause`
    waits at most so many seconds between two frames; when it returns something true, nothing more is sent. Raises `LabError` for a
    file that cannot be read, or not to its end, and for a frame that the interface does not take: those before have been sent.
    """
    due_ns = start_ns = time.monotonic_ns()
    began_ns: int | None = None
    with one_processor():
        for number, frame in enumerate(captured(path), 1):
            if speed is None:
                due_ns = time.monotonic_ns()
            elif frame.time_ns is None:
                raise LabError(f"frame {number} of {path} has no time, so no gap is known: give --at-once")
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
