"""Runs on other kernels, of the suite or of another command, and the matrix of results. One guest per kernel, one run per mechanism.

Each run of the suite leaves a folder in `results/`, like a native one, which records the kernel, the clock and the mechanism. What
does not live here: booting the guest (`lab.vm.machine`).
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

from lab.clock import GUEST, VIRTUAL
from lab.ebpf.attach import BEST, FORCED
from lab.errors import LabError
from lab.output.file import own_folder
from lab.output.text import tabulated
from lab.paths import CHECKOUT, ROOT
from lab.results.check_table import kinds, without_number
from lab.results.reader import RunFolder
from lab.results.writer import Results, parent, prepared
from lab.units import duration_text
from lab.verdict import Check
from lab.vm import archive, machine
from lab.vm.machine import Kernel, Machine

PYTEST = "pytest"
"""The command that runs a suite and has a place in the matrix."""
SHORT = (PYTEST, "scenarios/suite/test_exact.py")
"""The default command, short enough for emulation: each probe, both IP versions, injected delays."""

# On one processor the kernel defers packets to ksoftirqd whenever a woken thread is pending. With normal priority
# ksoftirqd waits up to a tick for other threads, mostly the recording. Its real-time priority is also above the demo's
# (lab/traffic/demo/process.py).
_RAISE_KSOFTIRQD = (
    "chrt --fifo --pid 3 $(grep --files-with-matches ^ksoftirqd /proc/[0-9]*/comm | cut --delimiter=/ --fields=3)"
)

_ENDED = "--- lab vm:"
_STATUS = re.compile(rf"^{_ENDED} (\w+) (\d+)$")
_RESULTS = re.compile(r"^results: (\S+)$")  # lab/testing/plugin.py prints it


@dataclass
class Outcome:
    """One run: kernel, mechanism, exit status, and checks."""

    kernel: str
    mechanism: str
    status: int
    results: Path | None
    checks: list[Check] = field(default_factory=list)

    @classmethod
    def of(cls, run: RunFolder) -> Self:
        """Return the outcome of a run, also of another machine.

        A run without a recorded exit status has failed if a check failed or if it has no checks.
        """
        checks = Results(run.path).checks()
        column = f"{run.kernel}{', virtual clock' if run.about.time == VIRTUAL else ''}"
        wrong = any(not check.passed for check in checks)
        ended = int(not checks) if run.about.status is None else run.about.status
        return cls(column, run.about.attach, ended or int(wrong), run.path, checks)

    @property
    def passed(self) -> bool:
        """Return true if every test passed."""
        return self.status == 0


def script(mechanisms: Sequence[str], clock: str, arguments: Sequence[str]) -> str:
    """Return the shell commands that run pytest in one guest: once per mechanism, each followed by a line with its exit status.

    This project's rootless tests are the same on every kernel; they are left out unless the arguments have their own -m.
    With the virtual clock each run is repeated, and both have to agree (`disagreements`).
    """
    # With --instafail a failure is printed even if the guest ends before its run.
    own = ["--instafail", "-m", "not rootless"] if CHECKOUT else []
    pytest = ["-m", "pytest", "-p", "no:cacheprovider", *own, *arguments]
    lines = [_RAISE_KSOFTIRQD] if clock == VIRTUAL else []
    for mechanism in mechanisms:
        words = python(clock, *pytest, **_forcing(mechanism))
        lines += [shlex.join(words), f'echo "{_ENDED} {mechanism} $?"'] * (2 if clock == VIRTUAL else 1)
    return "\n".join(lines)


def plain_script(mechanisms: Sequence[str], clock: str, command: Sequence[str]) -> str:
    """Return the shell commands that run any command in one guest, once per mechanism.

    The shell's exit status is that of the first run that failed. With several mechanisms a line with its status follows each run.
    """
    lines = ["first=0", *([_RAISE_KSOFTIRQD] if clock == VIRTUAL else [])]
    for mechanism in mechanisms:
        words = [*environment(clock, PATH=machine.search_path(), **_forcing(mechanism)), *command]
        lines += [shlex.join(words), "status=$?", "[ $first -ne 0 ] || first=$status"]
        if len(mechanisms) > 1:
            lines.append(f'echo "{_ENDED} {mechanism} $status"')
    return "\n".join([*lines, "exit $first"])


def _forcing(mechanism: str) -> dict[str, str]:
    return {} if mechanism == BEST else {FORCED: mechanism}


def python(clock: str, *arguments: str, **variables: str) -> list[str]:
    """Return the command that runs this Python in a guest, with the guest's environment variables."""
    return [*environment(clock, **variables), sys.executable, *arguments]


def environment(clock: str, **variables: str) -> list[str]:
    """Return the words before a command that give it the guest's environment variables."""
    # Home and the checkout are read-only in a guest. The cache of compiled programs is shared by all guests of a
    # kernel: compiling takes seconds, and minutes with the virtual clock.
    caches = {
        "XDG_CACHE_HOME": str(parent() / "vm" / "cache"),
        "MPLCONFIGDIR": str(parent() / "vm" / "cache" / "matplotlib"),
        "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",  # noqa: S108
    }
    fixed = {GUEST: clock, "PYTHONDONTWRITEBYTECODE": "1", "LAB_RESULTS": str(parent()), **caches}
    return ["env", *(f"{name}={value}" for name, value in (fixed | variables).items())]


def kernel(name: str) -> Kernel:
    """Find a kernel by the path of its image, or by its version in the archive. Raises `LabError` if there is none."""
    path = Path(name)
    if path.is_file():
        return Kernel(path.name, path.resolve())
    if "/" in name:
        raise LabError(f"there is no kernel {name}: give the path of a vmlinuz, or a version such as 6.1")
    return Kernel.within(name, archive.unpacked(name))


def in_guest(
    kernel: Kernel, guest: Machine, command: list[str], *, limit_s: float, cwd: Path | None = None
) -> tuple[int, str]:
    """Run a command in a guest and print its output. Return its exit status and output.

    It runs in the folder of the lab's code, which is the checkout if there is one, or in `cwd`.

    Raises `LabError` if another guest with the same kernel and clock is running, and as `machine.run` does.
    """
    folder = prepared(parent()) / "vm" / f"{kernel.name.replace('/', '_')}-{guest.clock}"
    with _locked(folder):
        status = machine.run(
            guest,
            kernel,
            command if cwd is None else ["env", f"--chdir={cwd}", *command],
            folder=folder,
            here=ROOT,
            writable=parent(),
            limit_s=limit_s,
            show=lambda text: print(text, end="", flush=True),
        )
        return status, (folder / "output.log").read_text(encoding="utf-8", errors="replace")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a guest's folder during a block. The kernel releases the lock when the process ends."""
    own_folder(folder)
    with (folder / "lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LabError(
                f"another guest uses {folder}: wait for its end, or set LAB_RESULTS to another folder"
            ) from None
        yield


def run(
    kernel: Kernel,
    guest: Machine,
    mechanisms: Sequence[str],
    arguments: Sequence[str],
    *,
    limit_s: float,
    cwd: Path | None = None,
) -> list[Outcome]:
    """Run pytest on a kernel with each mechanism. Raises `LabError` if the guest itself fails."""
    command = ["/bin/sh", "-c", script(mechanisms, guest.clock, arguments)]
    _, printed = in_guest(kernel, guest, command, limit_s=limit_s, cwd=cwd)
    return list(outcomes(kernel.name, printed))


def outcomes(kernel: str, printed: str) -> Iterator[Outcome]:
    """Parse the output of a guest: the folder and exit status of each run."""
    results = None
    for line in printed.splitlines():
        if found := _RESULTS.match(line):
            results = Path(found[1])
        elif ended := _STATUS.match(line):
            checks = Results(results).checks() if results else []
            yield Outcome(kernel, ended[1], int(ended[2]), results, checks)
            results = None


def disagreements(first: Outcome, second: Outcome) -> list[str]:
    """Return a sentence for each exact check that differs between two runs by more than its tolerance."""
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
        (error, tolerance), (other_error, _) = one[key], other[key]
        if abs(error - other_error) > tolerance:
            found.append(
                f"{key[3]} of {key[2]}: the error of {key[1]} is {error} ns in one run, {other_error} ns in the other"
            )
    return sorted(found)


def summary(outcomes: Sequence[Outcome], width: int | None = None) -> str:
    """Return the matrix, the differences between mechanisms, and one line per run with its status and folder.

    If the matrix is wider than `width` characters, each kernel has its own table.
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
    """Return the matrix: one column per kernel and mechanism, and rows for each probe's attach points and checks.

    A cell has the number of right or wrong checks, and the largest error of exact times.
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
    return tabulated(lines, ["probe", "check", *columns])


def differences(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a sentence for each probe with quantities that were judged with only some mechanisms on a kernel.

    A run without checks is ignored.
    """
    found = []
    for kernel in dict.fromkeys(outcome.kernel for outcome in outcomes):
        judged = {it.mechanism: set(_grouped(it.checks)) for it in outcomes if it.kernel == kernel and it.checks}
        only: dict[tuple[str, str, str], list[str]] = {}
        for probe, quantity in sorted(set().union(*judged.values())):
            having = ", ".join(mechanism for mechanism, those in judged.items() if (probe, quantity) in those)
            without = ", ".join(mechanism for mechanism, those in judged.items() if (probe, quantity) not in those)
            if without:
                only.setdefault((probe, having, without), []).append(quantity)
        found += [
            f"{kernel}: `{probe}` with {having}, but not with {without}: {', '.join(quantities)}"
            for (probe, having, without), quantities in only.items()
        ]
    return found


def _grouped(checks: Sequence[Check]) -> dict[tuple[str, str], list[Check]]:
    """Group checks by probe and quantity, without the number in a quantity's name."""
    found: dict[tuple[str, str], list[Check]] = {}
    for check in checks:
        found.setdefault((check.probe, without_number(check.quantity)), []).append(check)
    return found


def _cell(checks: Sequence[Check]) -> str:
    wrong = sum(not check.passed for check in checks)
    verdict = f"{wrong} of {len(checks)} wrong" if wrong else f"{len(checks)} right"
    errors = [abs(check.error) for check in checks if check.tolerance is not None and check.error is not None]
    return f"{verdict}, at most {duration_text(max(errors))} off" if errors else verdict
