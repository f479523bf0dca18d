"""Write static pages from kept judgements of `lab judge`.

The index has a table for each kernel, tools down and cases across, and one of the
tools' cost if one of the runs is of `lab bench`. Each verdict leads to its evidence.
"""

import argparse
from pathlib import Path

from lab.results.reader import RunFolder

EXAMPLES = """\
examples:
  lab site latest -o site                     newest run
  lab site 20261130T081952-14573 20261130T101500-201 -o site
                                              two runs, of two kernels or of judge and bench
"""
DETAILS = """\
details:
  All verdicts of a line are by one revision of the suite, that of the newest run with
  the tool. If DIR has an earlier site, the new one lists the verdicts that changed.
  The pages hold what the tools printed. Lines of other traffic of the machine are
  left out where they name two ports of their own.
  docs/ethics.md says what to do before you publish.

  Exit status: 2 if a run has no judgements, or if DIR holds anything but a site.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RESULTS", help="folders of runs, by path or name")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", required=True, help="folder of the site")


def run(args: argparse.Namespace) -> int:
    """Write the site and print the path of its index."""
    from lab.report import site  # noqa: PLC0415 (imports Jinja, which other commands do not need)

    written = site.write([RunFolder.open(path) for path in args.runs], args.output)
    products = len({str(entry.judgement.product) for entry in written.judgements})
    print(f"{args.output / site.INDEX}: {len(written.judgements)} verdicts on {products} tools; open it in a browser")
    return 0
