"""Measure the cost and accuracy of the probes and of comparable tools.

Runs this project's probes, libbpf-tools, BCC's own tools, bpftrace, tcpdump and tshark, interleaved, on this machine.
Needs root, and an idle machine for precise numbers. Writes run.json, bench.jsonl and the HTML report to
results/<run>/.
"""

import argparse

from lab.bench import chapters, tools
from lab.bench.context import Bench
from lab.bench.show import summary, tables
from lab.errors import LabError
from lab.linux.privileges import require_root
from lab.output.terminal import progress
from lab.report import page
from lab.results.writer import Results

EXAMPLES = """\
examples:
  lab bench                               every chapter, 10 to 15 minutes
  lab bench --quick                       few repetitions: rough numbers in a few minutes
  lab bench start --all                   one chapter, with its tables
"""
DETAILS = """\
Tools that cannot run on this machine are listed with their error message.
All details are in the report. The exit status is 0 even if a goal is missed.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "chapters", nargs="*", metavar="CHAPTER", help=f"what to measure (default: all): {', '.join(chapters.names())}"
    )
    parser.add_argument("--quick", action="store_true", help="few repetitions, a few minutes")
    parser.add_argument("-a", "--all", action="store_true", help="show all tables, before the summary")


def run(args: argparse.Namespace) -> int:
    """Measure, write each row to the results at once and the report at the end, and print a summary."""
    if unknown := set(args.chapters) - set(chapters.names()):
        raise LabError(f"unknown chapter `{min(unknown)}`: choose from {', '.join(chapters.names())}")
    require_root()
    results = Results.create()
    results.note(peers=tools.versions(), quick=args.quick)
    rows = []
    with progress() as step:
        for name in args.chapters or chapters.names():
            for row in chapters.chapter(name).measure(Bench(args.quick, step)):
                results.measured(row)
                rows.append(row)
        results.finish()
        step("writing the report")
        report = page.write_beside(results.path)
    if args.all:
        print("\n".join([*tables(rows), ""]))
    print("\n".join(summary(rows)))
    print(page.offer(report))
    return 0
