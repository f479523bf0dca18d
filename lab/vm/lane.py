"""What is run on another kernel, in which ways, and what came of it: one guest for each kernel, one pytest run for each way.

The results of each run land in `results/` as those of a native one, marked with the kernel, the clock and the way of attaching.
"""

import json
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tabulate import tabulate

from lab.attach import FORCED
from lab.results import ROOT
from lab.verdict import Check
from lab.vm import machine
from lab.vm.machine import Kernel, Machine

SHORT = ("scenarios/test_exact.py",)
"""What is run where nothing else is asked for and every instruction is emulated: each probe, both IP versions, injected delays."""

BEST = "best"
"""The way of attaching that the kernel offers itself, best first."""

_ENDED = "--- lab vm:"
_STATUS = re.compile(rf"^{_ENDED} (\w+) (\d+)$")
_RESULTS = re.compile(r"^results: (\S+)$")  # conftest.py prints it


@dataclass
class Outcome:
    """One run inside a guest: its exit status, and the verdicts it left."""

    kernel: str
    way: str
    status: int
    results: Path | None
    checks: list[Check] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every test has passed."""
        return self.status == 0


def script(ways: Sequence[str], clock: str, arguments: Sequence[str]) -> str:
    """Return the shell commands of one guest: a pytest run for each way, each followed by a line with its exit status."""
    pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    lines = []
    for way in ways:
        variables = {"LAB_CLOCK": clock, "PYTHONDONTWRITEBYTECODE": "1"} | ({} if way == BEST else {FORCED: way})
        words = ["env", *(f"{name}={value}" for name, value in variables.items()), *pytest]
        lines += [shlex.join(words), f'echo "{_ENDED} {way} $?"']
    return "\n".join(lines)


def run(
    kernel: Kernel,
    guest: Machine,
    ways: Sequence[str],
    arguments: Sequence[str],
    *,
    folder: Path,
    limit_s: float,
) -> Iterator[Outcome]:
    """Run the scenarios on a kernel in each way, and yield what came of each. Raises `LabError` when the guest fails as such."""
    machine.run(
        guest,
        kernel,
        ["/bin/sh", "-c", script(ways, guest.clock, arguments)],
        folder=folder,
        here=ROOT,
        limit_s=limit_s,
        show=lambda text: print(text, end="", flush=True),
    )
    yield from outcomes(kernel.name, (folder / "output.log").read_text())


def outcomes(kernel: str, printed: str) -> Iterator[Outcome]:
    """Read what the runs of a guest have printed: where the results of each are, and how it ended."""
    results = None
    for line in printed.splitlines():
        if found := _RESULTS.match(line):
            results = Path(found[1])
        elif ended := _STATUS.match(line):
            lines = (results / "checks.jsonl").read_text().splitlines() if results else []
            yield Outcome(kernel, ended[1], int(ended[2]), results, [Check(**json.loads(check)) for check in lines])
            results = None


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the matrix: kernels and ways across, checks down; in each cell the attach point and how many were outside."""
    columns = [f"{outcome.kernel}, {outcome.way}" for outcome in outcomes]
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for column, outcome in zip(columns, outcomes, strict=True):
        for (probe, quantity), checks in _grouped(outcome.checks).items():
            wrong = sum(not check.passed for check in checks)
            verdict = f"{wrong} of {len(checks)} wrong" if wrong else f"{len(checks)} right"
            rows.setdefault((probe, quantity), {})[column] = f"{verdict}\n{_short(checks[0].attach_point)}"
    lines = [
        [f"{probe}: {quantity}", *(cells.get(column, "-") for column in columns)]
        for (probe, quantity), cells in rows.items()
    ]
    return tabulate(lines, ["check", *columns])


def _grouped(checks: Sequence[Check]) -> dict[tuple[str, str], list[Check]]:
    found: dict[tuple[str, str], list[Check]] = {}
    for check in checks:
        found.setdefault((check.probe, check.quantity), []).append(check)
    return found


def _short(places: str) -> str:
    """Name the kinds of attach points, without what each is attached to."""
    return ", ".join(dict.fromkeys(place.partition(":")[0] for place in places.split(", ")))
