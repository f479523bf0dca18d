"""Measure what the probes cost, and against whom.

Runs this project's probes and what a user would take instead (libbpf-tools, BCC's own tools, bpftrace, tcpdump, tshark) in one run on
this machine, in turns, and says with numbers which is ahead. What cannot run here is listed with its own reason. Wants an idle
machine; leaves results/<run>/ with run.json and bench.jsonl, and nothing else. A goal that is missed is no failure: the exit status
is 0.
"""

import argparse

from lab.bench import chapters, tools
from lab.bench.context import Bench
from lab.bench.show import tables
from lab.errors import LabError
from lab.linux.instance import require_root
from lab.results.writer import Results
from lab.terminal import progress

EXAMPLES = """\
examples:
  lab bench                               every chapter, 10 to 15 minutes
  lab bench --quick                       few repetitions: whether it runs, and rough numbers
  lab bench observer-effect kernel-cost   two chapters
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "chapters", nargs="*", metavar="CHAPTER", help=f"what to measure (default: all): {', '.join(chapters.names())}"
    )
    parser.add_argument("--quick", action="store_true", help="few repetitions, a few minutes")


def run(args: argparse.Namespace) -> int:
    """Measure, write every row down as soon as it is known, and print tables; goals first."""
    if unknown := set(args.chapters) - set(chapters.names()):
        raise LabError(f"there is no chapter `{min(unknown)}`: choose from {', '.join(chapters.names())}")
    require_root()
    results = Results.create()
    results.note(peers=tools.versions(), quick=args.quick)
    rows = []
    with progress() as step:
        for name in args.chapters or chapters.names():
            for row in chapters.chapter(name).measure(Bench(args.quick, step)):
                results.measured(row)
                rows.append(row)
    print("\n".join(tables(rows)))
    print(f"\nEvery row is in {results.path}")
    return 0
