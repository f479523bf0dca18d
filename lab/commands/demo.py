"""Run the lab once on real traffic and show the results.

- Builds the network, attaches all probes, and runs three conversations with
  known delays.
- Shows the table of each probe, and checks each number against the timestamps
  of the two applications.
- Shows one request in detail: all its events, and its time in each layer.

Takes a few seconds. Exit status: 1 if a number was wrong, or if none was judged.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lab import probes
from lab.arrays import Rows
from lab.errors import EventsWithheld
from lab.linux.instance import require_root
from lab.network.description import NETWORKS
from lab.network.topology import Topology, topology
from lab.observation import Observed, observe
from lab.output.terminal import progress
from lab.plain_view import as_plain
from lab.probes.layers import text
from lab.probes.layers.perfetto import TRACE, write_trace
from lab.probes.layers.plot import draw
from lab.probes.layers.requests import requests_of
from lab.report import request_timeline
from lab.results import check_table, sharpness
from lab.results.writer import Results
from lab.traffic.demo.conversation import Conversation
from lab.units import MS

if TYPE_CHECKING:
    from lab.verdict import Check

EXAMPLES = """\
examples:
  lab demo                    needs root; writes results/<run>/
  lab demo --network direct   the hosts are joined directly, without a wire
"""

_CONVERSATIONS = {
    "the client holds the connection open for 50 ms": (4, Conversation(hold_ns=50 * MS)),
    "the server waits 120 ms before it replies": (6, Conversation(before_reply_ns=120 * MS, closer="server")),
    "the server closes 200 ms after the client's half-close": (4, Conversation(how="shutdown", linger_ns=200 * MS)),
}

_PICTURE = "layers.png"
_ATTEMPTS = 6  # of a recording from which the kernel withholds events, which a busy machine makes likely
_MOST_CHECKS = 6  # shown for each probe without --all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("-a", "--all", action="store_true", help="show all tables and checks")
    parser.add_argument("--network", choices=NETWORKS, default="wire", help="the network between the applications")


def run(args: argparse.Namespace) -> int:
    """Run the demo; returns 1 if a check failed."""
    require_root()
    results = Results.create()
    conversations: dict[str, Observed] = {}
    plain: dict[str, Observed] = {}
    with progress() as step:
        step("compiling the probes")
        refused = probes.refused()
        every = [name for name in probes.names() if name not in refused]
        step(f"building the network {args.network}")
        with topology(network=args.network) as net:
            for scenario, (version, conversation) in _CONVERSATIONS.items():
                step(scenario)
                conversations[scenario] = _recorded(net, conversation, every, version, step)
                plain[scenario] = as_plain(conversations[scenario], net)
        step("checking the numbers")
    # All files are written before anything is printed: the reader of the output may go away.
    judged: dict[str, dict[str, list[Check]]] = {}
    for number, (scenario, observed) in enumerate(conversations.items(), 1):
        observed.recording.save(results.path / f"recording-{number}.npz")
        judged[scenario] = {name: results.add(probes.judge(name, plain[scenario], scenario)) for name in every}
    if "layers" in every:
        rows = np.concatenate([requests_of(observed) for observed in conversations.values()])
        draw(results.path / _PICTURE, rows)
        write_trace(results.path / TRACE, rows)
    results.write_junit()
    columns = results.finish()
    for name, why in refused.items():
        print(f"lab {name} cannot run here: {why}")
    for number, (scenario, observed) in enumerate(conversations.items()):
        print(f"\n{scenario}:")
        for name in every:
            print(f"\nlab {name}")
            if number == 0 or args.all:
                print("\n".join([*probes.table(name, observed), ""]))
            print(_table(judged[scenario][name], everything=args.all))
    if "layers" in every:
        _show_requests(next(iter(conversations.values())), rows, results.path)
    if len(columns.rows):
        print(f"\n{sharpness.table(columns)}")
    print(f"\n{sharpness.summary(columns)}")
    print(f"Checks and recordings are in {results.path}; `lab report` writes an HTML report of them.")
    return 0 if columns.rows["passed"].all() and len(columns.rows) else 1


def _recorded(
    net: Topology, conversation: Conversation, every: list[str], version: int, step: Callable[[str], None]
) -> Observed:
    """Record a conversation; again if the kernel withheld events, as the suite does."""
    for _ in range(_ATTEMPTS):
        try:
            with observe(net, conversation, probes=every, version=version) as observed:
                pass
        except EventsWithheld as error:
            step(str(error))
            withheld = error
        else:
            return observed
    raise withheld


def _show_requests(first: Observed, rows: Rows, folder: Path) -> None:
    """Print one request of the first conversation in detail, and the layers of a typical request."""
    print("\nAll events of the first request, from the applications and from all probes:\n")
    print("\n".join(request_timeline.lines(first)))
    print("\nTime in each layer, for a request of median duration:\n")
    print("\n".join(text.waterfall(text.typical(rows))))
    print(f"\nLayers of all requests: {folder / _PICTURE} (picture), {folder / TRACE} (trace for ui.perfetto.dev)")


def _table(checks: "list[Check]", *, everything: bool) -> str:
    """Return the table of checks: all of them, or the first durations and all failed checks."""
    durations = [check for check in checks if check.unit == "ns" and not check.quantity.endswith(" at")]
    shown = (
        checks if everything else [check for check in checks if check in durations[:_MOST_CHECKS] or not check.passed]
    )
    left_out = len(checks) - len(shown)
    more = f"\n... and {left_out} more checks, all inside (show them with --all)" if left_out else ""
    return check_table.table(shown or checks[:_MOST_CHECKS]) + more
