"""Turn the results of runs into one HTML file, with every number's bracket, error and raw row.

The file needs no network and nothing beside it; only its links to raw rows lead to the files of the runs. Of several runs, one for
each kernel perhaps, it shows side by side how many checks of each probe were right, and where the probe was attached.
"""

import argparse
from pathlib import Path

from lab.results.reader import RunFolder

EXAMPLES = """\
examples:
  lab report                                       the newest run: results/latest/report.html
  lab report 20261121T213741-29163                 another one, by its folder's name or path
  lab report results/RUN results/RUN -o both.html  two kernels side by side
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folders of runs (default: the newest)")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="default: report.html in the first run's folder"
    )


def run(args: argparse.Namespace) -> int:
    """Write the report, and say where it is."""
    from lab.report import page  # noqa: PLC0415 (Jinja, which the other commands need not wait for)

    runs = [RunFolder.open(path) for path in args.runs or [None]]
    output = args.output or runs[0].path / "report.html"
    page.write(runs, output)
    print(f"{output} ({output.stat().st_size / 1e6:.1f} MB): open it in a browser")
    return 0
