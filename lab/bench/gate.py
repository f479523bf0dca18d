"""Whether a program has come to take more instructions than it took when the baseline was written down: pure comparisons.

The baseline is a small file of the checkout, written by the same command. It holds for one kernel: another one's compiler makes
other instructions of the same program.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Self

from tabulate import tabulate

from lab.errors import LabError
from lab.results.measurement import Measurement

MOST = 0.03
"""By how much a program may take more than its baseline says."""


class Baseline(NamedTuple):
    """Instructions of each program's run, by probe and function, on a kernel (its release)."""

    kernel: str
    instructions: dict[str, float]

    @classmethod
    def of(cls, kernel: str, rows: Iterable[Measurement]) -> Self:
        """Take it from a run's rows. Raises `LabError` when they count no instructions."""
        taken = {f"{row.tool}, {row.quantity}": round(row.median, 1) for row in rows if row.samples}
        if not taken:
            raise LabError("no instructions were counted: that takes the virtual clock (make bench-gate)")
        return cls(kernel, dict(sorted(taken.items())))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file. Raises `LabError` when there is none, or another one."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise LabError(f"{path} is no baseline ({error}): write one with lab gate --update") from error

    def write(self, path: Path) -> None:
        """Write the file."""
        path.write_text(json.dumps(self._asdict(), indent=2) + "\n")


def more(now: Baseline, before: Baseline) -> list[str]:
    """Return a sentence for each program that takes more than it may. Raises `LabError` when the kernels are two."""
    if now.kernel != before.kernel:
        raise LabError(
            f"the baseline is of kernel {before.kernel} and this is {now.kernel}: boot that one, or write a new baseline "
            "with lab gate --update"
        )
    return [
        f"{what} takes {taken:,.0f} instructions, {taken / before.instructions[what] - 1:+.1%} against the baseline"
        for what, taken in now.instructions.items()
        if what in before.instructions and taken > before.instructions[what] * (1 + MOST)
    ]


def table(now: Baseline, before: Mapping[str, float]) -> str:
    """Return every program's instructions, beside those of the baseline."""
    rows: list[tuple[str, float | None, float | None, str]] = [
        (what, taken, before.get(what), f"{taken / before[what] - 1:+.1%}" if before.get(what) else "new")
        for what, taken in now.instructions.items()
    ]
    rows += [(what, None, taken, "gone") for what, taken in before.items() if what not in now.instructions]
    return tabulate(rows, ["program", "instructions", "baseline", ""], floatfmt=",.1f", missingval="-")
