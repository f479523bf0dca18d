"""What is run on another kernel, in which ways, and what came of it: one guest for each kernel, one pytest run for each way.

The results of each run land in `results/` as those of a native one, marked with the kernel, the clock and the way of attaching.
"""

import fcntl
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tabulate import tabulate

from lab.clock import GUEST, VIRTUAL
from lab.ebpf.attach import BEST, FORCED
from lab.errors import LabError
from lab.paths import CHECKOUT
from lab.results.check_table import kinds, without_number
from lab.results.reader import RunFolder
from lab.results.writer import Results, parent
from lab.units import duration_text
from lab.verdict import Check
from lab.vm import archive, machine
from lab.vm.machine import Kernel, Machine

SHORT = ("scenarios/suite/test_exact.py",)
"""What is run where nothing else is asked for and every instruction is emulated: each probe, both IP versions, injected delays."""

# With one processor packets are left to the kernel's thread whenever a program has been woken: as an ordinary thread it waits
# there for others, the recording above all, for as long as a tick. It goes before the programs too (lab/traffic/demo/process.py).
_PACKETS_FIRST = (
    "chrt --fifo --pid 3 $(grep --files-with-matches ^ksoftirqd /proc/[0-9]*/comm | cut --delimiter=/ --fields=3)"
)

_ENDED = "--- lab vm:"
_STATUS = re.compile(rf"^{_ENDED} (\w+) (\d+)$")
_RESULTS = re.compile(r"^results: (\S+)$")  # conftest.py prints it


@dataclass
class Outcome:
    """One run: on which kernel and in which way, its exit status, and the verdicts it left."""

    kernel: str
    mechanism: str
    status: int
    results: Path | None
    checks: list[Check] = field(default_factory=list)

    @classmethod
    def of(cls, results: Path) -> Self:
        """Read a run's folder, wherever it was made. Raises `LabError` when there is none.

        A run that did not note how it ended has failed when a check did, or when it has none.
        """
        run = RunFolder.open(results)
        checks = Results(results).checks()
        column = f"{run.kernel}{', virtual clock' if run.about.get('time') == VIRTUAL else ''}"
        wrong = any(not check.passed for check in checks)
        status = int(run.about.get("status", not checks)) or int(wrong)
        return cls(column, run.about.get("attach", BEST), status, results, checks)

    @property
    def passed(self) -> bool:
        """Whether every test has passed."""
        return self.status == 0


def script(ways: Sequence[str], clock: str, arguments: Sequence[str]) -> str:
    """Return the shell commands of one guest: a pytest run for each way, each followed by a line with its exit status.

    What needs no privileges is the same on every kernel, and left out unless the arguments say which marks are wanted. Where time is
    virtual each run is made twice: the two have to agree (`disagreements`).
    """
    # A guest may be ended before its run is: what has failed is told at once.
    pytest = ["-m", "pytest", "--instafail", "-p", "no:cacheprovider", "-m", "not rootless", *arguments]
    lines = [_PACKETS_FIRST] if clock == VIRTUAL else []
    for mechanism in ways:
        words = python(clock, *pytest, **({} if mechanism == BEST else {FORCED: mechanism}))
        lines += [shlex.join(words), f'echo "{_ENDED} {mechanism} $?"'] * (2 if clock == VIRTUAL else 1)
    return "\n".join(lines)


def python(clock: str, *arguments: str, **variables: str) -> list[str]:
    """Return the command that runs this Python in a guest, with what it has to know in its environment."""
    # Home and the checkout are read only there. What is compiled in one guest serves the next of its kernel: it takes seconds, and
    # minutes where instructions are counted.
    caches = {
        "XDG_CACHE_HOME": str(parent() / "vm" / "cache"),
        "MPLCONFIGDIR": str(parent() / "vm" / "cache" / "matplotlib"),
        "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",  # noqa: S108
    }
    fixed = {GUEST: clock, "PYTHONDONTWRITEBYTECODE": "1", "LAB_RESULTS": str(parent()), **caches}
    return ["env", *(f"{name}={value}" for name, value in (fixed | variables).items()), sys.executable, *arguments]


def kernel(name: str) -> Kernel:
    """Find a kernel by the path of its image, or by its version in the archive. Raises `LabError` when there is none."""
    path = Path(name)
    if path.is_file():
        return Kernel(path.name, path.resolve())
    if "/" in name:
        raise LabError(f"there is no kernel {name}: give the path of a vmlinuz, or a version such as 6.1")
    return Kernel.within(name, archive.unpacked(name))


def in_guest(kernel: Kernel, guest: Machine, command: list[str], *, limit_s: float) -> tuple[int, str]:
    """Run a command in a guest and show what it prints; returns its exit status and that.

    Raises `LabError` as `machine.run`, and when there is another guest of the kind, whose files these would be.
    """
    folder = parent() / "vm" / f"{kernel.name.replace('/', '_')}-{guest.clock}"
    with _alone(folder):
        status = machine.run(
            guest,
            kernel,
            command,
            folder=folder,
            here=CHECKOUT,
            writable=parent(),
            limit_s=limit_s,
            show=lambda text: print(text, end="", flush=True),
        )
        return status, (folder / "output.log").read_text()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Have a guest's folder for oneself; whoever has it lets go of it with the process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LabError(
                f"another guest uses {folder} now: wait for its end, or keep its results elsewhere (LAB_RESULTS)"
            ) from None
        yield


def run(
    kernel: Kernel,
    guest: Machine,
    ways: Sequence[str],
    arguments: Sequence[str],
    *,
    limit_s: float,
) -> list[Outcome]:
    """Run the scenarios on a kernel in each way; returns what came of each. Raises `LabError` when the guest fails as such."""
    _, printed = in_guest(kernel, guest, ["/bin/sh", "-c", script(ways, guest.clock, arguments)], limit_s=limit_s)
    return list(outcomes(kernel.name, printed))


def outcomes(kernel: str, printed: str) -> Iterator[Outcome]:
    """Read what the runs of a guest have printed: where the results of each are, and how it ended."""
    results = None
    for line in printed.splitlines():
        if found := _RESULTS.match(line):
            results = Path(found[1])
        elif ended := _STATUS.match(line):
            checks = Results(results).checks() if results else []
            yield Outcome(kernel, ended[1], int(ended[2]), results, checks)
            results = None


def disagreements(first: Outcome, second: Outcome) -> list[str]:
    """Compare the exact checks of two runs of the same scenarios: a sentence for each that differs by more than its tolerance."""
    one, other = (
        {
            (it.scenario, it.probe, it.subject, it.quantity): (it.error, it.tolerance)
            for it in outcome.checks
            if it.error is not None and it.tolerance is not None
        }
        for outcome in (first, second)
    )
    found = [f"{key[3]} of {key[2]} was measured in one of two runs only" for key in one.keys() ^ other.keys()]
    for key in one.keys() & other.keys():
        (error, tolerance), (again, _) = one[key], other[key]
        if abs(error - again) > tolerance:
            found.append(f"{key[3]} of {key[2]}: {key[1]} is {error} ns away in one run, {again} ns in the other")
    return sorted(found)


def summary(outcomes: Sequence[Outcome], width: int | None = None) -> str:
    """Return the matrix, what differs between the ways to attach, and a line for each run: how it ended, where its results are.

    Where a table of all is wider than so many letters, each kernel has one of its own.
    """
    ended = [
        f"{it.kernel}, {it.mechanism}: {'passed' if it.passed else f'failed ({it.status})'}, {it.results or 'without results'}"
        for it in outcomes
    ]
    return "\n".join(["", *_tables(outcomes, width), *differences(outcomes), *ended])


def _tables(outcomes: Sequence[Outcome], width: int | None) -> Iterator[str]:
    whole = table(outcomes)
    kernels = dict.fromkeys(outcome.kernel for outcome in outcomes)
    if width is None or len(kernels) < 2 or max(map(len, whole.splitlines())) <= width:
        yield f"{whole}\n"
        return
    for kernel in kernels:
        yield f"{table([outcome for outcome in outcomes if outcome.kernel == kernel])}\n"


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the matrix: kernels and ways across, probes down with where each was attached, and below each its checks.

    In each cell: how many checks were right or wrong, and the largest error of times that have to be exact.
    """
    columns = [f"{outcome.kernel}, {outcome.mechanism}" for outcome in outcomes]
    probes: dict[str, dict[str, list[str]]] = {}
    for number, outcome in enumerate(outcomes):
        for (probe, quantity), checks in _grouped(outcome.checks).items():
            rows = probes.setdefault(probe, {})
            for what, cell in (("attached to", kinds(checks[0].attach_point)), (quantity, _cell(checks))):
                rows.setdefault(what, ["-"] * len(outcomes))[number] = cell
    lines = [
        ["" if line else probe, what, *cells]
        for probe, rows in probes.items()
        for line, (what, cells) in enumerate(rows.items())
    ]
    return tabulate(lines, ["probe", "check", *columns])


def differences(outcomes: Sequence[Outcome]) -> list[str]:
    """Say what could be judged on a kernel in one way to attach and not in another, probe by probe.

    A run that came to no check at all says nothing about its way.
    """
    found = []
    for kernel in dict.fromkeys(outcome.kernel for outcome in outcomes):
        judged = {it.mechanism: set(_grouped(it.checks)) for it in outcomes if it.kernel == kernel and it.checks}
        only: dict[tuple[str, str, str], list[str]] = {}
        for probe, quantity in sorted(set().union(*judged.values())):
            having = ", ".join(mechanism for mechanism, them in judged.items() if (probe, quantity) in them)
            without = ", ".join(mechanism for mechanism, them in judged.items() if (probe, quantity) not in them)
            if without:
                only.setdefault((probe, having, without), []).append(quantity)
        found += [
            f"{kernel}: `{probe}` has by {having}, and not by {without}: {', '.join(quantities)}"
            for (probe, having, without), quantities in only.items()
        ]
    return found


def _grouped(checks: Sequence[Check]) -> dict[tuple[str, str], list[Check]]:
    """Group checks by probe and quantity, whatever their number among several of the kind."""
    found: dict[tuple[str, str], list[Check]] = {}
    for check in checks:
        found.setdefault((check.probe, without_number(check.quantity)), []).append(check)
    return found


def _cell(checks: Sequence[Check]) -> str:
    wrong = sum(not check.passed for check in checks)
    verdict = f"{wrong} of {len(checks)} wrong" if wrong else f"{len(checks)} right"
    errors = [abs(check.error) for check in checks if check.tolerance is not None and check.error is not None]
    return f"{verdict}, at most {duration_text(max(errors))} off" if errors else verdict
