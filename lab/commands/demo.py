"""Run the lab once on real traffic and show what it found.

Builds the network, attaches the probe, holds three conversations with three different delays, shows what the live tool
would print, and judges every number against what the two applications know. Takes a few seconds.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from lab import report
from lab.demo.conversation import Conversation
from lab.demo.process import converse
from lab.measure import transitions
from lab.probes import states
from lab.recorder import record
from lab.results import Results
from lab.runs import require_root
from lab.topology import topology
from lab.units import MS

if TYPE_CHECKING:
    from lab.timeline import Connection
    from lab.verdict import Check

EXAMPLES = """\
example:
  lab demo                         needs root, leaves nothing but its results
"""

_STORIES = {
    "the client holds the connection open for 50 ms": (4, Conversation(hold_ns=50 * MS)),
    "the server thinks for 120 ms before it replies": (6, Conversation(before_reply_ns=120 * MS, closer="server")),
    "the server closes 200 ms after the client's half-close": (4, Conversation(how="shutdown", linger_ns=200 * MS)),
}

_TELLING = ("state sequence", "time in", "time from")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("-w", "--wide", action="store_true", help="columns as wide as IPv6 addresses")
    parser.add_argument("-a", "--all", action="store_true", help="show every check, also owners and points in time")
    parser.set_defaults(timestamp=False)


def run(args: argparse.Namespace) -> int:
    """Run the demo; returns 1 when a number was provably wrong."""
    require_root()
    results = Results.create()
    told: list[tuple[str, list[Connection], int]] = []
    with _steps() as step:
        step("building client | wire | server")
        with topology() as net:
            inodes = net.inodes
            step("compiling and attaching the probe")
            with record("states") as recorder:
                for story, (version, conversation) in _STORIES.items():
                    step(story)
                    with converse(net, conversation, version=version) as demo:
                        pass
                    told.append((story, demo.connections, net.quiesce()))
            step("judging")
    recording = recorder.recording
    recording.save(results.path / "recording.npz")
    print(states.header(args))
    for row in transitions(recording.events["states"]):
        if row["netns"] in inodes:
            print(states.line(states.as_dict(row), args))
    checks: list[Check] = []
    for story, connections, end_ns in told:
        print(f"\n{story}:\n")
        judged = results.add(states.judge(recording, inodes, connections, end_ns, scenario=story))
        shown = [check for check in judged if args.all or check.quantity.startswith(_TELLING) or not check.passed]
        print(report.table(shown))
        checks += judged
    results.write_junit()
    results.finish()
    print(f"\n{report.summary(checks)}\nEvery check and the recording are in {results.path}")
    return 0 if all(check.passed for check in checks) else 1


@contextmanager
def _steps() -> Iterator[Callable[[str], None]]:
    """Say what is going on now: on a terminal in one line that changes, elsewhere in a line each."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield console.print
        return
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True
    ) as progress:
        task = progress.add_task("")
        yield lambda text: progress.update(task, description=text)
