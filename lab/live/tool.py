"""What every live tool does the same way: draining a probe until the user has seen enough, and printing rows."""

import argparse
import csv
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from lab.arrays import Events
from lab.ebpf.program import Program
from lab.errors import LabError
from lab.linux.grace_period import settle
from lab.linux.netns import inode_of
from lab.signals import ENDING
from lab.units import above_zero

if TYPE_CHECKING:
    from lab.ebpf.interface import Device

# Nobody reads faster, and each look costs a processor half a millisecond. A ring of 16 MiB holds 4 million changes of state a second
# for so long.
_SHOW_INTERVAL_S = 0.05
_LOOK_INTERVAL_S = 0.2  # between looks at whether the devices are still there


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of every live tool."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON Lines")
    form.add_argument("--csv", action="store_true", help="print comma-separated values")
    parser.add_argument(
        "--seconds", type=positive_seconds, metavar="N", help="stop after this time (default: at Ctrl-C)"
    )
    parser.add_argument("--netns", metavar="NAME", help="only what happens in this named network namespace")
    parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the option of tools that watch a network interface."""
    parser.add_argument(
        "-i", "--interface", metavar="NAME", help="the interface to watch (default: the only one beside lo)"
    )


def device_of(args: argparse.Namespace) -> "Device":
    """Find the interface that the user has named. Raises `LabError` when it cannot be watched."""
    from lab.ebpf.interface import Device  # noqa: PLC0415 (not all tools watch one)

    return Device.find(args.interface, args.netns)


def netns_of(args: argparse.Namespace) -> list[int]:
    """Return the inode number of the network namespace that the user has named, if any. Raises `LabError` when there is none."""
    return [] if args.netns is None else [inode_of(args.netns)]


class Output:
    """Prints rows as a table with a `header` ("": none), as JSON Lines or as CSV."""

    def __init__(self, args: argparse.Namespace, header: str = "") -> None:
        self._args, self._header = args, header
        self._csv: csv.DictWriter[str] | None = None

    def start(self) -> None:
        """Show that the probe is attached."""
        if self._args.ready_fd is not None:
            os.write(self._args.ready_fd, b"ready\n")
        if self._header and not self._args.json and not self._args.csv:
            print(self._header, flush=True)

    def row(self, row: dict[str, object], line: Callable[[dict[str, object]], str]) -> None:
        """Print one row; `line` makes the table's line of it, where it is a table that is printed."""
        if self._args.csv:
            if self._csv is None:
                self._csv = csv.DictWriter(sys.stdout, list(row))
                self._csv.writeheader()
            self._csv.writerow(row)
        else:  # at once: print() writes a line's end on its own where nothing is buffered
            sys.stdout.write(f"{json.dumps(row) if self._args.json else line(row)}\n")

    def note(self, text: str) -> None:
        """Say something that is not a row, apart from the rows."""
        if text:
            print(f"lab: {text}", file=sys.stderr)


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
        import numpy as np  # noqa: PLC0415 (not before the programs are attached: a third of the start)

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
    import numpy as np  # noqa: PLC0415 (as above)

    complete_ns = time.monotonic_ns()
    settle()  # for what was stamped before that: now it has its place in the ring
    settle()  # for what has its place before it, since draining stops at a record that is still being written
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


@contextmanager
def stopping() -> Iterator["Stop"]:
    """Have Ctrl-C, SIGTERM and SIGHUP ask to stop, inside the block, instead of cutting anything off in the middle."""
    stop = Stop()
    heard = [number for number in ENDING if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda *_: stop.now()) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop.close()


class Stop:
    """A request to stop, made by a signal's handler and waited for by what the signal interrupts.

    No `threading.Event`: its wait() holds a lock for moments in which a handler on the same thread would wait for it, for ever.
    """

    def __init__(self) -> None:
        self._waiting, self._handler = socket.socketpair()

    def now(self) -> None:
        """Stop; safe in a signal's handler."""
        self._handler.send(b"x", socket.MSG_DONTWAIT)

    def wait(self, limit_s: float) -> bool:
        """Wait at most so many seconds; tells whether to stop."""
        waiting = select.poll()  # select() knows no file descriptors above 1023
        waiting.register(self._waiting, select.POLLIN)
        return bool(waiting.poll(limit_s * 1000))

    def close(self) -> None:
        """Give back what it is made of, when no signal leads to it any more."""
        self._waiting.close()
        self._handler.close()


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
            settle()
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


def time_of_day(time_ns: object) -> str:
    """Return a time on `CLOCK_MONOTONIC` as local wall-clock time, to the microsecond, by the clocks' difference now."""
    if not isinstance(time_ns, int):
        raise TypeError("a time is an integer of nanoseconds")
    wall_ns = time_ns + time.time_ns() - time.monotonic_ns()
    return datetime.fromtimestamp(wall_ns / 1e9).astimezone().strftime("%H:%M:%S.%f")


def positive_seconds(text: str) -> float:
    """Parse a time in seconds (argparse type): above 0."""
    return above_zero(text, "no time: give a number of seconds above 0")
