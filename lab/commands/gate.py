"""Compare what each program takes of a processor, in instructions, with the baseline: in a virtual machine whose clock counts them.

The numbers do not depend on this machine or on what else it does. Exit status: 1 when a program takes more than 3 % more than the
baseline says.
"""

import argparse
import re
from pathlib import Path

from lab.bench import gate
from lab.bench.gate import Baseline
from lab.clock import VIRTUAL
from lab.errors import LabError
from lab.paths import CHECKOUT
from lab.results import measurement
from lab.results.reader import RunFolder
from lab.vm import lane
from lab.vm.machine import Machine

BASELINE = CHECKOUT / "results" / "baseline.json"
_RESULTS = re.compile(r"^Every row is in (\S+)$", re.MULTILINE)  # lab bench prints it
_LIMIT_S = 1800
EXAMPLES = """\
examples:
  lab gate               whether a program has become more expensive
  lab gate --update      it has, and is meant to: write the baseline anew
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("-k", "--kernel", default="6.1", help="as for lab vm (%(default)s)")
    parser.add_argument("-u", "--update", action="store_true", help="write the baseline instead of comparing with it")
    parser.add_argument(
        "--baseline", type=Path, default=BASELINE, metavar="FILE", help="another file than the checkout's"
    )


def run(args: argparse.Namespace) -> int:
    """Boot, count, compare."""
    before = None if args.update else Baseline.read(args.baseline)
    folder = _counted(args.kernel)
    now = Baseline.of(RunFolder.open(folder).kernel, measurement.read(folder))
    print(gate.table(now, before.instructions if before else {}))
    if before is None:
        now.write(args.baseline)
        print(f"This is the baseline from now on: {args.baseline}")
        return 0
    worse = gate.more(now, before)
    print("\n".join(worse or [f"No program takes more than {gate.MOST:.0%} more than the baseline says."]))
    return 1 if worse else 0


def _counted(kernel: str) -> Path:
    """Run the bench's chapter in a guest; returns its results."""
    command = lane.python(VIRTUAL, "-m", "lab", "bench", "instructions")
    status, printed = lane.in_guest(lane.kernel(kernel), Machine(VIRTUAL), command, limit_s=_LIMIT_S)
    found = _RESULTS.search(printed)
    if status or not found:
        raise LabError(f"the guest's bench ended with status {status}: what it said is above")
    return Path(found[1])
