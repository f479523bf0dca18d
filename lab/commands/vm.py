"""Run the suite on other kernels, in virtual machines.

Boots each kernel over this machine's own root file system and runs pytest in the guest.
Exit status: 0 if every test passed on every kernel, 1 if a test failed, 2 if a guest did not boot or did not finish.
"""

import argparse

from lab.clock import REAL, VIRTUAL
from lab.ebpf.attach import BEST, MECHANISMS
from lab.errors import LabError
from lab.output import terminal
from lab.units import duration_ns
from lab.vm import archive, lane
from lab.vm.machine import CLOCKS, Machine, kvm_works, require_guests

EXAMPLES = """\
examples:
  lab vm --kernel 6.1                                    a short selection of tests on Debian's 6.1
  lab vm --kernel 5.10 6.1 newest --attach fentry kprobe tracepoint
  lab vm --kernel /boot/vmlinuz-6.12 -- scenarios/probes/layers/test_values.py -x
                                                         other scenarios, on your own kernel
  lab vm --kernel 6.1 --limit 20000s -- scenarios        the whole suite: hours without KVM
  lab vm --kernel 6.1 --clock virtual                    exact times, independent of this machine
"""
DETAILS = """\
Rootless tests are the same on every kernel. They are left out unless PYTEST has its own -m.
With the virtual clock every run is repeated, and exact times must be the same in both runs.
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
    parser.add_argument("arguments", nargs="*", metavar="PYTEST", help=f"arguments of pytest ({' '.join(lane.SHORT)})")


def run(args: argparse.Namespace) -> int:
    """Boot each kernel in turn and print the matrix."""
    require_guests()
    outcomes: list[lane.Outcome] = []
    failures: list[str] = []
    differing: list[str] = []
    for name in args.kernel:
        kernel = lane.kernel(name)
        guest = Machine(args.clock, args.cpus, args.memory, kvm=args.clock == REAL and kvm_works(kernel))
        print(f"lab: kernel {kernel.name} ({kernel.image.name}), {guest.accelerator}, {args.clock} clock", flush=True)
        try:
            found = lane.run(kernel, guest, args.attach, args.arguments or lane.SHORT, limit_s=args.limit / 1e9)
        except LabError as error:  # go on with the other kernels
            failures.append(str(error))
            print(f"lab: {error}", flush=True)
            continue
        outcomes += found
        if args.clock == VIRTUAL:
            differing += [it for pair in zip(found[::2], found[1::2], strict=True) for it in lane.disagreements(*pair)]
    if outcomes:
        print(lane.summary(outcomes, terminal.columns()))
    if differing:
        print("\n".join([f"{len(differing)} exact values differ between two runs:", *differing[:_SHOWN]]))
    if failures:
        first = failures[0].splitlines()[0].rstrip(":")
        raise LabError(f"{len(failures)} of {len(args.kernel)} kernels did not boot or finish, the first: {first}")
    return 0 if all(outcome.passed for outcome in outcomes) and not differing else 1
