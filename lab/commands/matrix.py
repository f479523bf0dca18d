"""Show the results of several runs as one table, by kernel and mechanism.

Reads only the folders of the runs, which may come from other machines. Exit status: 1 if a run failed.
"""

import argparse
from pathlib import Path

from lab.output import terminal
from lab.output.text import printable
from lab.results.reader import RunFolder
from lab.vm import lane

EXAMPLES = """\
example:
  lab matrix results/2026*         all runs of 2026
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder or name of a run")


def run(args: argparse.Namespace) -> int:
    """Print the table. Return 1 if a run failed."""
    outcomes = [lane.Outcome.of(RunFolder.open(folder)) for folder in args.runs]
    print(printable(lane.summary(outcomes, terminal.columns()), keep="\n"))
    return 0 if all(outcome.passed for outcome in outcomes) else 1
