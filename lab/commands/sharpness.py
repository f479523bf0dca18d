"""Show the smallest errors that a run would have noticed, by probe and quantity.

Shifts the measured values of a kept run, later and earlier, until 99 % of the
checks of a quantity fail. Needs no kernel and no privileges.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from lab.errors import LabError
from lab.output.text import printable, tabulated
from lab.results.caught import caught
from lab.results.check_columns import FILE
from lab.results.reader import RunFolder
from lab.units import amount_text

EXAMPLES = """\
examples:
  lab sharpness results/latest
  lab sharpness results/latest --probe states --json
"""

DETAILS = """\
details:
  NOTICED IF LATE BY: if every value were larger by this much, 99 % of the checks
  would fail; EARLY: the same for smaller values. Times depend on the machine and
  its load, because the brackets do: compare runs of one machine.
  Only checks with an interval are counted: a check of equality notices any error.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("--probe", help="only this probe")
    parser.add_argument("--json", action="store_true", help="print JSON Lines, with times in nanoseconds")


def run(args: argparse.Namespace) -> int:
    """Print the errors that the run would have noticed."""
    folder = RunFolder.open(args.run_folder)
    found = [one for one in caught(folder.path / FILE) if args.probe in (None, one.probe)]
    if not found:
        of_probe = f" of the probe {printable(args.probe)}" if args.probe else ""
        raise LabError(
            f"{args.run_folder} has no check with an interval{of_probe}: give a run of the suite or the demo"
        )
    if args.json:
        for one in found:
            print(json.dumps(asdict(one)))
        return 0
    rows = [
        (one.probe, one.quantity, f"{one.checks:,}", amount_text(one.late, one.unit), amount_text(one.early, one.unit))
        for one in found
    ]
    heads = ("probe", "quantity", "checks", "noticed if late by", "early by")
    print(
        printable(tabulated(rows, heads, disable_numparse=True, colalign=("left", "left", *["right"] * 3)), keep="\n")
    )
    return 0
