"""What every live tool does the same way: draining a probe until the user has seen enough, and printing rows."""

import argparse
import csv
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from lab.program import Program
from lab.recorder import DRAIN_INTERVAL_S, settle
from lab.ring import Events

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of every live tool."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON Lines")
    form.add_argument("--csv", action="store_true", help="print comma-separated values")
    parser.add_argument("--seconds", type=_seconds, metavar="N", help="stop after this time (default: at Ctrl-C)")
    parser.add_argument("--netns", metavar="NAME", help="only what happens in this named network namespace")
    parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)


class Output:
    """Prints rows as a table, as JSON Lines or as CSV; `header` and `line` make the table."""

    def __init__(self, args: argparse.Namespace, header: str, line: Callable[[dict[str, object]], str]) -> None:
        self._args, self._header, self._line = args, header, line
        self._csv: csv.DictWriter[str] | None = None

    def start(self) -> None:
        """Show that the probe is attached."""
        if self._args.ready_fd is not None:
            os.write(self._args.ready_fd, b"ready\n")
        if not self._args.json and not self._args.csv:
            print(self._header, flush=True)

    def row(self, row: dict[str, object]) -> None:
        """Print one row."""
        if self._args.json:
            print(json.dumps(row))
        elif self._args.csv:
            if self._csv is None:
                self._csv = csv.DictWriter(sys.stdout, list(row))
                self._csv.writeheader()
            self._csv.writerow(row)
        else:
            print(self._line(row))

    def note(self, text: str) -> None:
        """Say something that is not a row, apart from the rows."""
        if text:
            print(f"lab: {text}", file=sys.stderr)


@contextmanager
def events(probe: str, seconds: float | None = None) -> Iterator[Iterator[Events]]:
    """Attach a probe and hand out batches of its events until Ctrl-C, SIGTERM, SIGHUP or `seconds` have passed.

    Lost events are counted on standard error while the tool runs and at its end.
    """
    program = Program.load(probe)
    stop = threading.Event()
    # From here on a signal ends the loop below, between two batches, and nothing is cut off in the middle.
    heard = [
        number for number in _STOPPING if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN
    ]
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in heard}
    try:
        with program.attached():
            yield _batches(program, stop, seconds)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _batches(program: Program, stop: threading.Event, seconds: float | None) -> Iterator[Events]:
    deadline = None if seconds is None else time.monotonic() + seconds
    reported = program.lost()
    program.ring.drain()
    stopped = False
    while not stopped:
        stopped = stop.wait(DRAIN_INTERVAL_S) or (deadline is not None and time.monotonic() >= deadline)
        if stopped:
            settle()
        if (batch := program.ring.drain()).size:
            yield batch
            sys.stdout.flush()
        if (lost := program.lost()) != reported:
            print(f"lab: {lost - reported} events lost: the output is not complete", file=sys.stderr)
            reported = lost


def time_of_day(time_ns: object) -> str:
    """Return a time on `CLOCK_MONOTONIC` as local wall-clock time, to the microsecond, by the clocks' difference now."""
    if not isinstance(time_ns, int):
        raise TypeError("a time is an integer of nanoseconds")
    wall_ns = time_ns + time.time_ns() - time.monotonic_ns()
    return datetime.fromtimestamp(wall_ns / 1e9).astimezone().strftime("%H:%M:%S.%f")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"`{text}` is no time: give a number of seconds above 0")
    return value
