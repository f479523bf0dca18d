"""The loop of every live tool: read a program's events or totals at intervals, until a signal or a time limit."""

import mmap
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from lab.arrays import Events, concatenated, in_order
from lab.choice import EVERYTHING, Choice
from lab.ebpf.program import Program
from lab.errors import LabError
from lab.linux.grace_period import await_grace_period
from lab.live.account import Account
from lab.signals import Stop, stopping

if TYPE_CHECKING:
    from lab.ebpf.interface import Device
    from lab.ebpf.ringbuf import Rings

# Fast enough for a reader, and each drain costs half a millisecond of CPU time. Rings of 16 MiB hold 50 ms of 4
# million state changes per second.
_SHOW_INTERVAL_S = 0.05
_NUMPY_BYTES = 100 << 20  # of address space that it takes
_PRESENCE_INTERVAL_S = 0.2  # between two checks that the devices exist
_AUDIT_INTERVAL_S = 10.0  # between two counts of the events that the kernel withheld


@contextmanager
def events(
    program: Program,
    seconds: float | None = None,
    devices: "Sequence[Device]" = (),
    choice: Choice = EVERYTHING,
    account: Account | None = None,
) -> Iterator[Iterator[Events]]:
    """Attach a program and yield batches of its events, sorted by kernel time across all batches. See `ticks`.

    A program reads the clock some time before its record is in the ring. So the events up to a time are yielded after
    all programs that ran at that time have ended, some milliseconds later.
    """
    ring = ring_of(program)

    def batches(times: Iterator[None]) -> Iterator[Events]:
        import numpy as np

        waiting = np.empty(0, ring.dtype)
        for _ in times:
            waiting = concatenated([waiting, ring.drain()])
            if not waiting.size:
                continue
            complete, waiting, _ = by_time(waiting, ring.drain)
            yield complete
        yield waiting

    with ticks(program, _SHOW_INTERVAL_S, seconds, devices, choice, account) as times:
        yield batches(times)


def ring_of(program: Program) -> "Rings":
    """Return a program's ring. Raises `TypeError` for a program without events."""
    if program.ring is None:
        raise TypeError("a program without a ring has no events: use its totals")
    return program.ring


def by_time(waiting: Events, drain: Callable[[], Events]) -> tuple[Events, Events, int]:
    """Drain a ring and split the events, with those of `waiting`, at a time up to which they are complete.

    Returns the events up to that time, the later events, both sorted, and the time (`CLOCK_MONOTONIC`, ns). No event
    with an earlier time can follow.
    """
    import numpy as np

    complete_ns = time.monotonic_ns()
    await_grace_period()  # programs that read the clock before that time have reserved their records
    await_grace_period()  # records reserved before those are finished: `drain` stops at a busy record
    events = in_order(concatenated([waiting, drain()]))
    complete = int(np.searchsorted(events["time_ns"], np.uint64(complete_ns), side="right"))
    return events[:complete], events[complete:], complete_ns


@contextmanager
def totals(
    program: Program,
    interval_s: float,
    seconds: float | None = None,
    devices: "Sequence[Device]" = (),
    choice: Choice = EVERYTHING,
    account: Account | None = None,
) -> Iterator[Iterator[Events]]:
    """Attach a program and yield its totals of each interval; the last interval may be shorter. See `ticks`."""
    with ticks(program, interval_s, seconds, devices, choice, account) as times:
        yield (program.take_totals() for _ in times)


@contextmanager
def ticks(
    program: Program,
    interval_s: float,
    seconds: float | None = None,
    devices: "Sequence[Device]" = (),
    choice: Choice = EVERYTHING,
    account: Account | None = None,
) -> Iterator[Iterator[None]]:
    """Attach a program and yield once per interval, until SIGINT, SIGTERM or SIGHUP, or until `seconds` have passed.

    - The last yield comes after a grace period: events under way are in the ring.
    - After each yield standard output is flushed, and `account` is told of events for which no room was left; every ten
      seconds and at the end, of events that the kernel withheld.
    - When a device has gone, the loop ends with `LabError` after one more yield.
    - `choice` limits what the program observes.
    """
    # OpenBLAS, which comes with NumPy, would end the process with a message and a status of its own.
    mmap.mmap(-1, _NUMPY_BYTES, flags=mmap.MAP_PRIVATE, prot=0).close()
    with stopping() as stop, program.attached(devices, choice):
        yield _ticks(program, interval_s, stop, seconds, devices, account or Account())


def _ticks(
    program: Program,
    interval_s: float,
    stop: Stop,
    seconds: float | None,
    devices: "Sequence[Device]",
    account: Account,
) -> Iterator[None]:
    deadline = float("inf") if seconds is None else time.monotonic() + seconds
    without_room, recursion = program.without_room(), program.withheld_by_recursion()
    next_check = time.monotonic()
    next_audit, told = next_check + _AUDIT_INTERVAL_S, 0
    gone: LabError | None = None
    stopped = False
    with ExitStack() as opened:
        withheld: Callable[[], int] | None = None
        while not stopped:
            next_tick = min(deadline, time.monotonic() + interval_s)
            while not stopped and (rest := next_tick - time.monotonic()) > 0:
                stopped = stop.wait(min(rest, _PRESENCE_INTERVAL_S))
                if time.monotonic() >= next_check:
                    gone = _missing_device(devices)
                    next_check = time.monotonic() + _PRESENCE_INTERVAL_S
                    stopped |= gone is not None
            stopped |= time.monotonic() >= deadline
            if stopped:
                await_grace_period()
            yield
            sys.stdout.flush()
            if withheld is None and not stopped:  # not at the start, which it would slow down
                withheld = _audit(program, opened, account)
            if (now := program.without_room()) != without_room:
                account.add_without_room(now - without_room)
                without_room = now
            if stopped or time.monotonic() >= next_audit:
                next_audit += _AUDIT_INTERVAL_S
                now = max(0, program.withheld_by_recursion() - recursion) + (withheld() if withheld else 0)
                if now > told:
                    account.add_withheld(now - told)
                    told = now
    if gone:
        raise gone


def _audit(program: Program, opened: ExitStack, account: Account) -> Callable[[], int]:
    """Begin to audit a program, and return a function that counts the events withheld since."""
    from lab.ebpf.audit import Audit  # noqa: PLC0415 (with NumPy, a third of a live tool's start)

    try:
        audit = opened.enter_context(Audit(program))
        before = audit.withheld()
    except LabError as error:
        account.note(f"events that the kernel withholds are not counted: {error}")
        return lambda: 0
    return lambda: int((audit.withheld() - before).clip(0).sum())


def _missing_device(devices: "Sequence[Device]") -> LabError | None:
    """Return the error of the first device that has gone, None if all exist."""
    try:
        for device in devices:
            device.require_present()
    except LabError as error:
        return error
    return None
