"""Run the suite, or any other command, on other kernels in virtual machines.

Boots each kernel over this machine's own root file system and runs COMMAND in
the guest, in the current folder. Without a command it runs a short selection
of this project's tests.

Exit status: that of the first command that failed, else 0. For pytest it is 0
if every test passed on every kernel, and 1 if a test failed. 2 if a guest did
not boot or did not finish.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from lab.clock import REAL, VIRTUAL
from lab.ebpf.attach import BEST, MECHANISMS
from lab.errors import LabError
from lab.output import terminal
from lab.paths import CHECKOUT
from lab.units import duration_ns
from lab.vm import archive, lane
from lab.vm.machine import CLOCKS, Kernel, Machine, kvm_works, require_guests

EXAMPLES = """\
examples:
  lab vm --kernel 6.1                                    a short selection of tests on Debian's 6.1
  lab vm --kernel 6.1 -- uname -r                        any command
  lab vm --kernel 5.10 6.1 newest --attach fentry kprobe tracepoint
  lab vm --kernel /boot/vmlinuz-6.12 -- pytest scenarios/probes/layers/test_values.py -x
                                                         other scenarios, on your own kernel
  lab vm --kernel 6.1 --limit 20000s -- pytest scenarios
                                                         the whole suite: hours without KVM
  lab vm --kernel 6.1 --clock virtual                    exact times, independent of this machine
"""
DETAILS = """\
The words after -- are a command and its arguments. It finds the programs of this environment (lab, pytest), sees
this machine's files, and can write only to the folder of results and to /tmp, whose changes are discarded. Its
standard error is shown with its standard output. LAB_ATTACH has the mechanism.

If the command is pytest, the checks of all kernels and mechanisms are shown as a table. This project's rootless tests
are the same on every kernel, and are left out unless pytest has its own -m. With the virtual clock every run of
pytest is repeated, and exact times must be the same in both runs.
"""

_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "-k",
        "--kernel",
        nargs="+",
        required=True,
        metavar="KERNEL",
        help=f"path of a vmlinuz, or a version in Debian's archive: 6.1, 6.1.0-50-amd64, {archive.NEWEST}",
    )
    parser.add_argument(
        "-a",
        "--attach",
        nargs="+",
        choices=[BEST, *MECHANISMS],
        default=[BEST],
        help="attach mechanisms, one run each (best)",
    )
    parser.add_argument(
        "-c",
        "--clock",
        choices=CLOCKS,
        default=REAL,
        help="real, or virtual: time is the number of executed instructions",
    )
    parser.add_argument(
        "--cpus", type=int, default=2, help="processors of the guest (%(default)s; always 1 with the virtual clock)"
    )
    parser.add_argument("--memory", default="4G", help="memory of the guest (%(default)s)")
    parser.add_argument(
        "--limit",
        type=duration_ns,
        default=duration_ns("1800s"),
        metavar="TIME",
        help="end a guest after this time (1800s)",
    )
    parser.add_argument(
        "command", nargs="*", metavar="COMMAND", help=f"after --: a command and its arguments ({' '.join(lane.SHORT)})"
    )


def run(args: argparse.Namespace) -> int:
    """Boot each kernel in turn and run the command there."""
    require_guests()
    if not args.command and not CHECKOUT:
        raise LabError("an installed lab has no scenarios: give a command after --, such as -- pytest tests")
    return _suite(args) if not args.command or args.command[0] == lane.PYTEST else _command(args)


def _suite(args: argparse.Namespace) -> int:
    """Run pytest on each kernel and print the matrix."""
    outcomes: list[lane.Outcome] = []
    differing: list[str] = []
    _, *arguments = args.command or lane.SHORT
    cwd = Path.cwd() if args.command else None

    def work(kernel: Kernel, guest: Machine) -> None:
        found = lane.run(kernel, guest, args.attach, arguments, limit_s=args.limit / 1e9, cwd=cwd)
        outcomes.extend(found)
        if args.clock == VIRTUAL:
            pairs = zip(found[::2], found[1::2], strict=True)
            differing.extend(it for pair in pairs for it in lane.disagreements(*pair))

    failures = _on_each_kernel(args, work, sys.stdout)
    if outcomes:
        print(lane.summary(outcomes, terminal.columns()))
    if differing:
        print("\n".join([f"{len(differing)} exact values differ between two runs:", *differing[:_SHOWN]]))
    _require_none(failures, args)
    return 0 if all(outcome.passed for outcome in outcomes) and not differing else 1


def _command(args: argparse.Namespace) -> int:
    """Run a command on each kernel. Return the exit status of the first that failed, else 0."""
    statuses: list[int] = []

    def work(kernel: Kernel, guest: Machine) -> None:
        command = ["/bin/sh", "-c", lane.plain_script(args.attach, args.clock, args.command)]
        status, _ = lane.in_guest(kernel, guest, command, limit_s=args.limit / 1e9, cwd=Path.cwd())
        statuses.append(status)

    # Standard output is the command's.
    _require_none(_on_each_kernel(args, work, sys.stderr), args)
    return next((status for status in statuses if status), 0)


def _on_each_kernel(args: argparse.Namespace, work: Callable[[Kernel, Machine], None], messages: TextIO) -> list[str]:
    """Call `work` with each kernel and its guest, also if an earlier one failed. Return the errors."""
    failures = []
    for name in args.kernel:
        kernel = lane.kernel(name)
        guest = Machine(args.clock, args.cpus, args.memory, kvm=args.clock == REAL and kvm_works(kernel))
        about = f"kernel {kernel.name} ({kernel.image.name}), {guest.accelerator}, {args.clock} clock"
        print(f"lab: {about}", file=messages, flush=True)
        try:
            work(kernel, guest)
        except LabError as error:
            failures.append(str(error))
            print(f"lab: {error}", file=messages, flush=True)
    return failures


def _require_none(failures: Sequence[str], args: argparse.Namespace) -> None:
    if failures:
        first = failures[0].splitlines()[0].rstrip(":")
        raise LabError(f"{len(failures)} of {len(args.kernel)} kernels did not boot or finish, the first: {first}")
