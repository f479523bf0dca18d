"""The baseline of executed instructions, and comparisons with it. The counting lives in `lab.bench.chapters`.

`lab gate --update` writes the baseline, a small file in the checkout. It holds for one kernel: on another kernel the
same program becomes other instructions.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import msgspec

from lab.bench.chapters.instructions import VERIFIED
from lab.errors import LabError
from lab.output.file import replacing
from lab.output.text import tabulated
from lab.results import schema
from lab.results.measurement import Measurement

MOST = 0.03
"""Largest allowed increase over the baseline, as a fraction."""

MOST_VERIFIED = 12_000
"""The most instructions that the verifier may follow in one program: about 12 ms of a tool's start."""


@dataclass(frozen=True)
class Baseline:
    """Instructions of each probe's functions, per run and to load. `kernel` is the kernel's release."""

    kernel: str
    instructions: dict[str, float]

    @classmethod
    def of(cls, kernel: str, rows: Iterable[Measurement]) -> Self:
        """Return the medians of a run's rows. Raises `LabError` if no row has samples."""
        taken = {f"{row.tool}, {row.quantity}": round(row.median, 1) for row in rows if row.samples}
        if not taken:
            raise LabError("no instructions were counted: run make bench-gate, which uses the virtual clock")
        return cls(kernel, dict(sorted(taken.items())))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a baseline. Raises `LabError` if the file is missing or is not a baseline."""
        return schema.read(path, msgspec.json.Decoder(cls).decode, "write a baseline with lab gate --update")

    def write(self, path: Path) -> None:
        """Write the baseline as JSON."""
        with replacing(path) as file:
            file.write(json.dumps(asdict(self), indent=2) + "\n")


def regressions(now: Baseline, before: Baseline) -> list[str]:
    """Return a sentence for each program that takes more than before, or than `MOST_VERIFIED`.

    Raises `LabError` if the kernels differ.
    """
    if now.kernel != before.kernel:
        raise LabError(
            f"the baseline is for kernel {before.kernel} and this is {now.kernel}: boot {before.kernel}, or write a "
            "new baseline with lab gate --update"
        )
    above = [
        f"{program}: {taken:,.0f} instructions, more than {MOST_VERIFIED:,}: hide what the paths differ in from the verifier"
        for program, taken in now.instructions.items()
        if VERIFIED in program and taken > MOST_VERIFIED
    ]
    return above + [
        f"{program} takes {taken:,.0f} instructions, {taken / baseline - 1:+.1%} against the baseline"
        for program, taken in now.instructions.items()
        if (baseline := before.instructions.get(program)) is not None and taken > baseline * (1 + MOST)
    ]


def table(now: Baseline, before: Mapping[str, float]) -> str:
    """Return a table of each program's instructions, next to the baseline."""
    rows: list[tuple[str, float | None, float | None, str]] = [
        (program, taken, before.get(program), f"{taken / before[program] - 1:+.1%}" if before.get(program) else "new")
        for program, taken in now.instructions.items()
    ]
    rows += [(program, None, taken, "gone") for program, taken in before.items() if program not in now.instructions]
    return tabulated(rows, ["program", "instructions", "baseline", ""], floatfmt=",.1f", missingval="-")
