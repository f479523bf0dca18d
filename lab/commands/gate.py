"""Compare the executed instructions of each BPF program with the baseline.

Counts the instructions under QEMU's icount clock, so the numbers are the same on every machine and under any load.
Exit status: 1 if a program takes over 3 % more instructions than the baseline.
"""

import argparse
from pathlib import Path

from lab.bench import gate
from lab.bench.gate import Baseline
from lab.clock import VIRTUAL
from lab.errors import LabError
from lab.paths import CHECKOUT
from lab.report import page
from lab.results import measurement
from lab.results.reader import RunFolder
from lab.vm import lane
from lab.vm.machine import Machine, require_guests

BASELINE = (CHECKOUT or Path()) / "results" / "baseline.json"
_LIMIT_S = 1800
EXAMPLES = """\
examples:
  lab gate               compare with the baseline
  lab gate --update      accept the new numbers: write the baseline
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("-k", "--kernel", default="6.1", help="as for lab vm (%(default)s)")
    parser.add_argument("-u", "--update", action="store_true", help="write the baseline instead of comparing with it")
    parser.add_argument(
        "--baseline", type=Path, default=BASELINE, metavar="FILE", help="baseline (default: results/baseline.json)"
    )


def run(args: argparse.Namespace) -> int:
    """Boot a guest, count instructions there, and compare."""
    require_guests()
    before = None if args.update else Baseline.read(args.baseline)
    folder = _counted(args.kernel)
    now = Baseline.of(RunFolder.open(folder).kernel, measurement.read(folder))
    print(gate.table(now, before.instructions if before else {}))
    if before is None:
        now.write(args.baseline)
        print(f"The baseline is written to {args.baseline}")
        return 0
    worse = gate.regressions(now, before)
    print("\n".join(worse or [f"No program takes over {gate.MOST:.0%} more instructions than the baseline."]))
    return 1 if worse else 0


def _counted(kernel: str) -> Path:
    """Run the chapter `instructions` in a guest. Return its results folder."""
    command = lane.python(VIRTUAL, "-m", "lab", "bench", "instructions")
    status, printed = lane.in_guest(lane.kernel(kernel), Machine(VIRTUAL), command, limit_s=_LIMIT_S)
    report = page.offered(printed)
    if status or not report:
        raise LabError(f"the bench in the guest ended with status {status}: see its output above")
    return report.parent
