"""Options and output of every live tool."""

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from lab.linux.netns import inode_of
from lab.units import positive_seconds

if TYPE_CHECKING:
    from lab.ebpf.interface import Device


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
    """Prints rows as a table, as JSON Lines or as CSV."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._csv: csv.DictWriter[str] | None = None

    def start(self) -> None:
        """Show that the probe is attached, before anything slow is imported."""
        if self._args.ready_fd is not None:
            os.write(self._args.ready_fd, b"ready\n")

    def heading(self, line: str) -> None:
        """Print a table's head, where a table is printed."""
        if not self._args.json and not self._args.csv:
            print(line, flush=True)

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
