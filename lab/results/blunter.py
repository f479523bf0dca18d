"""The baseline of sharpness: the widths of a run's brackets by probe and quantity, and what has become blunter since.

Widths depend on the machine and its load, so runs are comparable at one place only: one kernel and one clock. On the virtual
clock they are the same on every machine.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import msgspec

from lab.errors import LabError
from lab.output.file import replacing
from lab.results import schema
from lab.results.reader import RunFolder
from lab.results.sharpness import TIME, quantity_of, sharpness
from lab.units import duration_text

MOST = 2.0
"""Largest allowed ratio of a width to that of the baseline."""


@dataclass(frozen=True)
class Baseline:
    """Median widths in nanoseconds, by probe and quantity. `place` is kernel and clock of the run."""

    place: str
    widths_ns: dict[str, int]

    @classmethod
    def of(cls, run: RunFolder) -> Self:
        """Return the widths of a run's times. Raises `LabError` if it has none."""
        found = sharpness(run.checks, quantity_of)
        widths = {
            f"{key[0]}, {key[1]}": int(one.p50) for (key, unit), one in found.items() if unit == TIME and one.sized
        }
        if not widths:
            raise LabError(f"{run.path} has no brackets of times: give a run of the suite")
        return cls(run.place, dict(sorted(widths.items())))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a baseline. Raises `LabError` if the file is missing or is not a baseline."""
        return schema.read(path, msgspec.json.Decoder(cls).decode, "write a baseline with lab sharpness --update")

    def write(self, path: Path) -> None:
        """Write the baseline as JSON."""
        with replacing(path) as file:
            file.write(json.dumps(asdict(self), indent=2) + "\n")


def blunter(now: Baseline, before: Baseline) -> list[str]:
    """Return a sentence for each quantity with wider brackets than `MOST` allows, or without any now.

    Raises `LabError` if the runs were at different places.
    """
    if now.place != before.place:
        raise LabError(
            f"the baseline is for {before.place} and this run is of {now.place}: give a run of that kernel and clock, or "
            "write a new baseline with lab sharpness --update"
        )
    return [f"{name} is not judged any more" for name in before.widths_ns if name not in now.widths_ns] + [
        f"{name}: the brackets are {duration_text(width)} wide (median), {duration_text(baseline)} before"
        for name, width in now.widths_ns.items()
        if (baseline := before.widths_ns.get(name)) is not None and width > MOST * baseline
    ]
