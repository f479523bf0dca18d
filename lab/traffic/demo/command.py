"""Common parts of `lab serve` and `lab connect`: options, namespace, readiness, pause, end with the parent, output."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable

from lab.linux import netns
from lab.linux.syscalls import signal_on_parent_death
from lab.timeline import Timeline
from lab.traffic.demo import conversation
from lab.units import duration_text, port


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of both commands."""
    parser.add_argument("--port", type=port, default=conversation.PORT, help="TCP port (%(default)s)")
    parser.add_argument("--netns", metavar="NAME", help="run inside this named network namespace")
    parser.add_argument("--json", action="store_true", help="print the timelines as JSON Lines")
    parser.add_argument(
        "--pause", action="store_true", help="after the exchanges, wait for a line on standard input before going on"
    )
    parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    conversation.add_arguments(parser)


def prepare(args: argparse.Namespace) -> None:
    """Enter the namespace, and have the kernel kill this process when its parent lab process ends."""
    if args.parent:
        signal_on_parent_death(signal.SIGKILL, args.parent)
    if args.netns is not None:
        netns.enter(args.netns)


def say_ready(args: argparse.Namespace) -> None:
    """Write the line `ready` to the parent's pipe, if there is one."""
    if args.ready_fd is not None:
        os.write(args.ready_fd, b"ready\n")


def pause_for_all(args: argparse.Namespace, connections: int) -> Callable[[], None] | None:
    """Return a function that each connection calls to wait for all others, then for a line on standard input."""
    if not args.pause:
        return None

    def wait_for_line() -> None:
        say_ready(args)
        sys.stdin.readline()

    barrier = threading.Barrier(connections, action=wait_for_line)

    def pause() -> None:
        barrier.wait()

    return pause


def show(args: argparse.Namespace, timelines: list[Timeline]) -> None:
    """Print the timelines."""
    for timeline in timelines:
        if args.json:
            print(timeline.to_json())
            continue
        from lab.output.text import tabulated  # noqa: PLC0415 (not with --json)

        print(f"\n{timeline.role} {timeline.flow}, socket cookie {timeline.cookie}")
        start_ns = timeline.calls[0].enter_ns
        rows = [
            (
                call.name,
                duration_text(call.enter_ns - start_ns),
                duration_text(call.exit_ns - call.enter_ns),
                call.error or call.result,
            )
            for call in timeline.calls
        ]
        print(
            tabulated(
                rows, headers=("call", "entered after", "took", "result"), colalign=("left", "right", "right", "right")
            )
        )
