"""Run the lab once on real traffic and show what it found.

Builds the network, attaches every probe at once, holds three conversations with three different delays, shows what each live
tool would print, and judges every number against what the two applications know. Ends with one request as all probes have seen it,
step by step, and with where its time went. Takes a few seconds.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lab import probes
from lab.linux.instance import require_root
from lab.network.topology import topology
from lab.observation import Observed, observe
from lab.probes.layers import text
from lab.probes.layers.perfetto import TRACE, write_trace
from lab.probes.layers.plot import draw
from lab.probes.layers.requests import requests_of
from lab.report import request_timeline
from lab.results import check_table
from lab.results.writer import Results
from lab.terminal import progress
from lab.traffic.demo.conversation import Conversation
from lab.units import MS

if TYPE_CHECKING:
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

_MOST_CHECKS = 6  # of one probe, without --all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("-a", "--all", action="store_true", help="show every table and every check")


def run(args: argparse.Namespace) -> int:
    """Run the demo; returns 1 when a number was provably wrong."""
    require_root()
    results = Results.create()
    told: dict[str, Observed] = {}
    with progress() as step:
        step("compiling the probes")
        refused = probes.refused()
        every = [name for name in probes.names() if name not in refused]
        step("building client | wire | server")
        with topology() as net:
            for story, (version, conversation) in _STORIES.items():
                step(story)
                with observe(net, conversation, probes=every, version=version) as told[story]:
                    pass
        step("judging")
    for name, why in refused.items():
        print(f"lab {name} is left out: {why}")
    checks: list[Check] = []
    for number, (story, observed) in enumerate(told.items(), 1):
        observed.recording.save(results.path / f"recording-{number}.npz")
        print(f"\n{story}:")
        for name in every:
            print(f"\nlab {name}")
            if number == 1 or args.all:
                print("\n".join([*probes.table(name, observed), ""]))
            judged = results.add(probes.judge(name, observed, story))
            print(_told_of(judged, everything=args.all))
            checks += judged
    if "layers" in every:
        _tell_requests(told, results.path)
    results.write_junit()
    results.finish()
    print(
        f"\n{check_table.summary(checks)}\nEvery check and the recordings are in {results.path}; lab report makes a page of them"
    )
    return 0 if all(check.passed for check in checks) else 1


def _tell_requests(told: dict[str, Observed], folder: Path) -> None:
    """Show one request in every detail, and write where the time of all of them went."""
    rows = np.concatenate([requests_of(observed) for observed in told.values()])
    print("\nThe first request, as all probes have seen it:\n")
    print("\n".join(request_timeline.lines(next(iter(told.values())))))
    print("\nWhere the time of a request went:\n")
    print("\n".join(text.waterfall(text.typical(rows))))
    draw(folder / "layers.png", rows)
    write_trace(folder / TRACE, rows)
    print(f"\nThe same as a picture: {folder / 'layers.png'}; for ui.perfetto.dev: {folder / TRACE}")


def _told_of(checks: "list[Check]", *, everything: bool) -> str:
    """Return the table of checks: all of them, or the first lengths of time, and whatever is wrong."""
    telling = [check for check in checks if check.unit == "ns" and not check.quantity.endswith(" at")]
    shown = checks if everything else [check for check in checks if check in telling[:_MOST_CHECKS] or not check.passed]
    left_out = len(checks) - len(shown)
    more = f"\n... and {left_out} more checks, all inside (lab demo --all)" if left_out else ""
    return check_table.table(shown or checks[:_MOST_CHECKS]) + more
