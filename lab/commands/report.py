"""Write an HTML report of one or more runs.

The report shows the bracket, error and raw row of each number. It is one file
and needs no network; its links lead to the files of the runs. For several runs
it also compares the correct checks and the attach points of each probe.
"""

import argparse
from pathlib import Path

from lab.results.reader import RunFolder

EXAMPLES = """\
examples:
  lab report                         newest run, to results/latest/report.html
  lab report 20261121T213741-29163   another run, by name or path of its folder
  lab report results/RUN results/RUN -o both.html
                                     two runs side by side
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folders of runs (default: the newest)")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="default: report.html in the first run's folder"
    )


def run(args: argparse.Namespace) -> int:
    """Write the report and print its path."""
    from lab.report import page  # noqa: PLC0415 (imports Jinja, which no other command needs)

    runs = [RunFolder.open(path) for path in args.runs or [None]]
    output = args.output or runs[0].path / "report.html"
    page.write(runs, output)
    print(f"{output} ({output.stat().st_size / 1e6:.1f} MB): open it in a browser")
    return 0
