"""Show the smallest errors that a run would have noticed, by probe and quantity.

Shifts the measured values of a kept run, later and earlier, until 99 % of the
checks of a quantity fail. Needs no kernel and no privileges.

Exit status with --baseline: 1 if the brackets of a quantity are more than twice as
wide as in the baseline, or if it is not judged any more.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from lab.errors import LabError
from lab.output.text import printable, tabulated
from lab.results.blunter import MOST, Baseline, blunter
from lab.results.caught import caught
from lab.results.check_columns import FILE
from lab.results.reader import RunFolder
from lab.units import amount_text

EXAMPLES = """\
examples:
  lab sharpness results/latest
  lab sharpness results/latest --probe states --json
  lab sharpness results/latest --baseline widths.json --update
  lab sharpness results/latest --baseline widths.json
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
    parser.add_argument(
        "--baseline", type=Path, metavar="FILE", help="compare the widths of the brackets (median) with those in a file"
    )
    parser.add_argument("-u", "--update", action="store_true", help="write the file of --baseline instead")
    parser.add_argument("--json", action="store_true", help="print JSON Lines, with times in nanoseconds")


def run(args: argparse.Namespace) -> int:
    """Print the errors that the run would have noticed."""
    folder = RunFolder.open(args.run_folder)
    if args.baseline:
        return _compared(Baseline.of(folder), args.baseline, update=args.update)
    if args.update:
        raise LabError("--update writes the file of --baseline: give both")
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


def _compared(now: Baseline, path: Path, *, update: bool) -> int:
    if update:
        now.write(path)
        print(f"The baseline is written to {path}")
        return 0
    worse = blunter(now, Baseline.read(path))
    print("\n".join(worse or [f"No brackets are more than {MOST:g} times as wide as those in {path}."]))
    return 1 if worse else 0
