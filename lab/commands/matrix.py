"""Show the results of several runs as one table: kernels and ways to attach across, checks down.

The runs may come from other machines: of each, only its folder in results/ is read. Exit status: 1 when one of them failed.
"""

import argparse
from pathlib import Path

from lab import terminal
from lab.vm import lane

EXAMPLES = """\
example:
  lab matrix results/2026*         every run of this year
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run: results/<run>")


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    outcomes = [lane.Outcome.of(folder) for folder in args.runs]
    print(lane.summary(outcomes, terminal.columns()))
    return 0 if all(outcome.passed for outcome in outcomes) else 1
