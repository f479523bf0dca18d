"""Write a run for other tools.

jsonl        JSON Lines: each check and each measurement with its kind and its run
csv          each check, or with --only measurements each sample of the bench
junit        JUnit XML: a test case for each check
openmetrics  OpenMetrics text: how many checks are inside and outside, quantiles of the errors of times, medians of the bench
perfetto     the requests of a run's recordings, layer by layer, for ui.perfetto.dev
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from lab.errors import LabError
from lab.results.export import FORMATS, KINDS, export
from lab.results.reader import RunFolder

EXAMPLES = """\
examples:
  lab export --format csv -o checks.csv            the newest run
  lab export results/RUN --format openmetrics --only measurements
  lab export --format jsonl | jq 'select(.verdict == "outside")'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "run_folder", nargs="?", type=Path, metavar="RUN", help="the folder of a run (default: the newest)"
    )
    parser.add_argument("-f", "--format", required=True, choices=FORMATS, help="see above")
    parser.add_argument("--only", choices=KINDS, help="one kind of rows (default: all there are)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: standard output")


def run(args: argparse.Namespace) -> int:
    """Write a run in the format that was asked for."""
    found = RunFolder.open(args.run_folder)
    with _output(args.output) as file:
        export(found, args.format, file, args.only)
    return 0


@contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    """Hand out where to write. A file gets its name when it is complete: whoever reads it meanwhile has the old one, or none.

    A device or a pipe is written to, and never replaced.
    """
    if path is None:
        yield sys.stdout
        return
    try:
        if path.exists() and not path.is_file():
            with path.open("w", newline="") as file:
                yield file
            return
        path = path.resolve()
        partial = path.with_name(f".{path.name}.partial")
        try:
            with partial.open("w", newline="") as file:
                yield file
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise LabError(f"{path} cannot be written ({error.strerror}): choose another file with -o") from error
