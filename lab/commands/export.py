"""Export a run in a format that other tools read.

jsonl        JSON Lines: all checks and measurements, each with its kind and run
csv          one row for each check, or with --only measurements for each sample
junit        JUnit XML: one test case for each quantity of a probe
openmetrics  checks by verdict, quantiles of the errors, medians of the bench
perfetto     trace of the requests in the recordings, for ui.perfetto.dev
"""

import argparse
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO

from lab.output.file import replacing
from lab.results.export import FORMATS, KINDS, export
from lab.results.reader import RunFolder

EXAMPLES = """\
examples:
  lab export --format csv -o checks.csv            newest run
  lab export results/RUN --format openmetrics --only measurements
  lab export --format jsonl | jq 'select(.verdict == "outside")'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("run_folder", nargs="?", type=Path, metavar="RUN", help="folder of a run (default: the newest)")
    parser.add_argument("-f", "--format", required=True, choices=FORMATS, help="see above")
    parser.add_argument("--only", choices=KINDS, help="export one kind of rows (default: all)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: standard output")


def run(args: argparse.Namespace) -> int:
    """Write a run in the requested format."""
    found = RunFolder.open(args.run_folder)
    output: AbstractContextManager[IO[str]] = (
        replacing(args.output, newline="") if args.output else nullcontext(sys.stdout)
    )
    with output as file:
        export(found, args.format, file, args.only)
    return 0
