"""The loop of every live tool: read a program's events or totals until the user has seen enough."""

import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lab.arrays import Events
from lab.ebpf.program import Program
from lab.errors import LabError
from lab.linux.grace_period import await_grace_period
from lab.signals import Stop, stopping

if TYPE_CHECKING:
    from lab.ebpf.interface import Device

# Nobody reads faster, and each look costs a processor half a millisecond. A ring of 16 MiB holds 4 million changes of state a second
# for so long.
_SHOW_INTERVAL_S = 0.05
_LOOK_INTERVAL_S = 0.2  # between looks at whether the devices are still there


@contextmanager
def events(
    program: Program, seconds: float | None = None, devices: "Sequence[Device]" = (), netns: Collection[int] = ()
) -> Iterator[Iterator[Events]]:
    """Attach a program and hand out batches of its events; as for `ticks`."""
    ring = program.ring
    if ring is None:
        raise TypeError("a program without a ring has no events: ask for its totals")

    def batches(times: Iterator[None]) -> Iterator[Events]:
        for _ in times:
            if (batch := ring.drain()).size:
                yield batch

    with ticks(program, _SHOW_INTERVAL_S, seconds, devices, netns) as times:
        yield batches(times)


@contextmanager
def events_by_time(
    program: Program, seconds: float | None = None, devices: "Sequence[Device]" = (), netns: Collection[int] = ()
) -> Iterator[Iterator[Events]]:
    """As `events`, sorted by kernel time across all batches: a line that was printed is never followed by an older one.

    CPUs write to the ring a little after they have read the clock. What was stamped before a moment is handed out when the
    programs that were running then are done, which is some milliseconds later.
    """
    ring = program.ring
    if ring is None:
        raise TypeError("a program without a ring has no events: ask for its totals")

    def batches(times: Iterator[None]) -> Iterator[Events]:
        import numpy as np

        waiting = np.empty(0, ring.dtype)
        for _ in times:
            waiting = np.concatenate([waiting, ring.drain()])
            if not waiting.size:
                continue
            complete, waiting, _ = by_time(waiting, ring.drain)
            yield complete
        yield waiting

    with ticks(program, _SHOW_INTERVAL_S, seconds, devices, netns) as times:
        yield batches(times)


def by_time(waiting: Events, drain: Callable[[], Events]) -> tuple[Events, Events, int]:
    """Take what a ring has by now, and put all in order of time.

    Returns the events up to a moment, to which no older ones will come; the later ones; and that moment (`CLOCK_MONOTONIC`, ns).
    """
    import numpy as np

    complete_ns = time.monotonic_ns()
    await_grace_period()  # for what was stamped before that: now it has its place in the ring
    await_grace_period()  # for what has its place before it, since draining stops at a record that is still being written
    events = np.concatenate([waiting, drain()])
    events = events[np.argsort(events["time_ns"], kind="stable")]
    complete = int(np.searchsorted(events["time_ns"], np.uint64(complete_ns), side="right"))
    return events[:complete], events[complete:], complete_ns


@contextmanager
def totals(
    program: Program,
    interval_s: float,
    seconds: float | None = None,
    devices: "Sequence[Device]" = (),
    netns: Collection[int] = (),
) -> Iterator[Iterator[Events]]:
    """Attach a program and hand out what it adds up in each interval, the last one cut short; as for `ticks`."""
    with ticks(program, interval_s, seconds, devices, netns) as times:
        yield (program.take_totals() for _ in times)


@contextmanager
def ticks(
    program: Program,
    interval_s: float,
    seconds: float | None = None,
    devices: "Sequence[Device]" = (),
    netns: Collection[int] = (),
) -> Iterator[Iterator[None]]:
    """Attach a program and give a sign each interval, until Ctrl-C, SIGTERM, SIGHUP or `seconds` have passed.

    The last sign comes when whatever was under way then is done. After each, standard output is flushed and events lost
    meanwhile are counted on standard error. Raises `LabError` when one of the devices has gone, after the last sign.
    What the program sees of sockets is limited to the network namespaces `netns`, if any are given.
    """
    with stopping() as stop, program.attached(devices, netns):
        yield _ticks(program, interval_s, stop, seconds, devices)


def _ticks(
    program: Program, interval_s: float, stop: Stop, seconds: float | None, devices: "Sequence[Device]"
) -> Iterator[None]:
    deadline = float("inf") if seconds is None else time.monotonic() + seconds
    reported = program.lost()
    next_look = time.monotonic()
    gone: LabError | None = None
    stopped = False
    while not stopped:
        next_sign = min(deadline, time.monotonic() + interval_s)
        while not stopped and (rest := next_sign - time.monotonic()) > 0:
            stopped = stop.wait(min(rest, _LOOK_INTERVAL_S))
            if time.monotonic() >= next_look:
                gone = _gone(devices)
                next_look = time.monotonic() + _LOOK_INTERVAL_S
                stopped |= gone is not None
        stopped |= time.monotonic() >= deadline
        if stopped:
            await_grace_period()
        yield
        sys.stdout.flush()
        if (lost := program.lost()) != reported:
            print(f"lab: {lost - reported} events lost: the output is not complete", file=sys.stderr)
            reported = lost
    if gone:
        raise gone


def _gone(devices: "Sequence[Device]") -> LabError | None:
    try:
        for device in devices:
            device.require_present()
    except LabError as error:
        return error
    return None
