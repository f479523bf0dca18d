"""Run the lab once on real traffic and show the results.

- Builds the network, attaches all probes, and runs three conversations with
  known delays.
- Shows the way of one request, layer by layer.
- Checks each number of each probe against the timestamps of the two
  applications, and shows how many were wrong and how sharp the checks were.
- Writes the HTML report.

Takes a few seconds. Exit status: 1 if a number was wrong, or if none was judged.
"""

import argparse
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lab import probes
from lab.arrays import Rows
from lab.errors import EventsWithheld
from lab.linux.privileges import require_root
from lab.network.description import NETWORKS
from lab.network.topology import Topology, topology
from lab.observation import Observed, observe
from lab.output.terminal import progress
from lab.output.text import printable
from lab.plain_view import as_plain
from lab.probes.layers import text
from lab.probes.layers.perfetto import TRACE, write_trace
from lab.probes.layers.requests import requests_of
from lab.report import page, request_timeline, story
from lab.results import check_table, sharpness
from lab.results.schema import NotJudged
from lab.results.writer import Results
from lab.traffic.demo.conversation import Conversation
from lab.units import MS

if TYPE_CHECKING:
    from lab.results.check_columns import CheckColumns
    from lab.verdict import Check

EXAMPLES = """\
examples:
  lab demo                    needs root; writes results/<run>/
  lab demo --all              what each tool printed, and each check, too
  lab demo --network direct   the hosts are joined directly, without a wire
"""

_CONVERSATIONS = {
    "the server waits 120 ms before it replies": (4, Conversation(before_reply_ns=120 * MS, closer="server")),
    "the client holds the connection open for 50 ms": (6, Conversation(hold_ns=50 * MS)),
    "the server closes 200 ms after the client's half-close": (4, Conversation(how="shutdown", linger_ns=200 * MS)),
}

_ATTEMPTS = 6  # of a recording from which the kernel withholds events, which a busy machine makes likely
_WIDTH = 80
_MOST_WRONG = 2  # wrong numbers that the summary shows; the report has all

_SHARPNESS = """\
p50, p90: the width of the truth's interval for half and nine tenths of the checks. A larger error would have been noticed.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("-a", "--all", action="store_true", help="show all tables and checks, before the summary")
    parser.add_argument("--network", choices=NETWORKS, default="wire", help="the network between the applications")


def run(args: argparse.Namespace) -> int:
    """Run the demo; returns 1 if a check failed."""
    require_root()
    results = Results.create()
    conversations: dict[str, Observed] = {}
    plain: dict[str, Observed] = {}
    left_out: list[NotJudged] = []
    with progress() as step:
        every = _usable(step, left_out)
        step(f"building the network {args.network}")
        with topology(network=args.network) as net:
            for scenario, (version, conversation) in _CONVERSATIONS.items():
                step(scenario)
                if observed := _recorded(net, scenario, conversation, every, version, left_out):
                    conversations[scenario] = observed
                    plain[scenario] = as_plain(observed, net)
        step("checking the numbers")
        # All files are written before anything is printed: the reader of the output may go away.
        judged: dict[str, dict[str, list[Check]]] = {}
        for number, (scenario, observed) in enumerate(conversations.items(), 1):
            observed.recording.save(results.path / f"recording-{number}.npz")
            judged[scenario] = {name: results.add(probes.judge(name, plain[scenario], scenario)) for name in every}
            for checks in judged[scenario].values():
                results.append(story.FILE, story.lines(checks, plain[scenario]))
        rows = [requests_of(observed) for observed in conversations.values()] if "layers" in every else []
        if rows:
            write_trace(results.path / TRACE, np.concatenate(rows))
        results.write_junit()
        results.note(not_judged=left_out)
        columns = results.finish()
        step("writing the report")
        report = page.write_beside(results.path)
    if args.all:
        print("\n".join(_details(conversations, judged)))
    print("\n".join(_summary(conversations, rows, columns, left_out, report)))
    return 0 if len(columns.rows) and columns.rows["passed"].all() else 1


def _usable(step: Callable[[str], None], left_out: list[NotJudged]) -> list[str]:
    """Compile the probes; return those that this kernel does not refuse."""
    every = probes.names()
    for number, name in enumerate(every, 1):
        step(f"compiling the probe {name}, {number} of {len(every)}")
        if why := probes.refusal(name):
            left_out.append(NotJudged(f"the probe {name}", why))
    return probes.here()


def _recorded(
    net: Topology,
    scenario: str,
    conversation: Conversation,
    every: list[str],
    version: int,
    left_out: list[NotJudged],
) -> Observed | None:
    """Record a conversation; again if the kernel withheld events, as the suite does. Return None if it always did."""
    for attempt in range(_ATTEMPTS):
        try:
            with observe(net, conversation, probes=every, version=version) as observed:
                pass
        except EventsWithheld as error:
            why = str(error)
        else:
            if attempt:
                what = "1 recording" if attempt == 1 else f"{attempt} recordings"
                left_out.append(NotJudged(f"{what} of `{scenario}`, made again", why))
            return observed
    left_out.append(NotJudged(f"the conversation `{scenario}`, in {_ATTEMPTS} recordings", why))
    return None


def _summary(
    conversations: dict[str, Observed],
    rows: list[Rows],
    columns: "CheckColumns",
    left_out: list[NotJudged],
    report: Path,
) -> Iterator[str]:
    """Yield two screens: the way of one request, a line for each probe, the verdict, and where the rest is."""
    if rows:
        yield f"{next(iter(conversations)).capitalize()}. Its request, layer by layer:"
        yield from text.waterfall(text.typical(rows[0]))
        yield ""
    if len(columns.rows):
        yield sharpness.table(columns)
        yield textwrap.fill(_SHARPNESS, _WIDTH)
        yield ""
    yield from _verdict(columns)
    for one in left_out:
        left = printable(f"Not judged: {one.what}: {one.why}")
        yield textwrap.fill(left, _WIDTH, subsequent_indent="  ", max_lines=2, placeholder=" ...")
    yield page.offer(report)
    trace = f", and {TRACE} for ui.perfetto.dev" if rows else ""
    yield f"Beside it: checks, recordings{trace}."
    yield "`lab demo --all` also shows what each tool printed, and each check."


def _verdict(columns: "CheckColumns") -> Iterator[str]:
    """Yield the number of wrong values and the first of them, or that all are right."""
    wrong = int((~columns.rows["passed"]).sum())
    if wrong:
        yield f"WRONG: {wrong:,} of {len(columns.rows):,} numbers{f', the first {_MOST_WRONG}' * (wrong > _MOST_WRONG)}:"
        for check, _ in zip(columns.failed(), range(_MOST_WRONG), strict=False):
            truth, measured, _ = check_table.texts(check)
            found = f"{check.probe}: {check.quantity} is {measured}, the truth is {truth}, of {check.subject}"
            yield textwrap.fill(printable(found), _WIDTH, initial_indent="- ", subsequent_indent="  ")
    else:
        yield textwrap.fill(sharpness.summary(columns), _WIDTH, break_on_hyphens=False)


def _details(conversations: dict[str, Observed], judged: "dict[str, dict[str, list[Check]]]") -> Iterator[str]:
    """Yield what each tool printed, all checks, and all timestamps of the first request."""
    for scenario, observed in conversations.items():
        yield f"{scenario}:"
        for name, checks in judged[scenario].items():
            yield from ("", f"lab {name}", *probes.table(name, observed), "", check_table.table(checks))
        yield ""
    for observed in conversations.values():
        yield from ("All events of the first request, from the applications and from all probes:", "")
        yield from (*request_timeline.lines(observed), "")
        break
