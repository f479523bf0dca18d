"""The list of allowed skips, and the comparison of a run's skipped scenarios with it.

A lane is a kernel, an attach mechanism and a clock. Each entry of the list names a reason for skipping, the lanes on
which it is allowed, and why. A skip that no entry allows fails the run: scenarios must not stop running unnoticed.
"""

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.errors import LabError


@dataclass(frozen=True)
class Lane:
    """Where scenarios run: kernel release, mechanism (`lab.ebpf.attach.mechanism`) and clock (real or virtual)."""

    release: str
    mechanism: str
    clock: str

    @property
    def version(self) -> tuple[int, ...]:
        """Major and minor version of the kernel, for example (6, 1)."""
        return _version(self.release)


@dataclass(frozen=True)
class Allowed:
    """One entry of the list.

    It allows a skip whose reason contains `reason`. `before`, `attach` and `clock` restrict it to some lanes; None
    means every lane. `why` explains the entry to the reader of a summary.
    """

    reason: str
    why: str
    before: str | None = None  # only kernels older than this version
    attach: str | None = None
    clock: str | None = None

    def covers(self, reason: str, lane: Lane) -> bool:
        """Return true if this entry allows a skip with this reason on a lane."""
        return (
            self.reason in reason
            and (self.before is None or lane.version < _version(self.before))
            and self.attach in (None, lane.mechanism)
            and self.clock in (None, lane.clock)
        )


@dataclass(frozen=True)
class Skipped:
    """The number of scenarios skipped for one reason. `why` comes from the list; None if no entry allows the skip."""

    count: int
    reason: str
    why: str | None

    def __str__(self) -> str:
        return f"{self.count} skipped, {self.reason}: {self.why or 'NOT ALLOWED on this lane'}"


def allowed(path: Path) -> list[Allowed]:
    """Read the list of allowed skips. Raises `LabError` if the file has another form."""
    try:
        entries: Iterable[Mapping[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8")).get("skip", [])
        return [Allowed(**entry) for entry in entries]
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise LabError(f"{path} is no list of allowed skips ({error}): each [[skip]] has a reason and a why") from error


def compared(reasons: Iterable[str], entries: Iterable[Allowed], lane: Lane) -> list[Skipped]:
    """Return the number of skips for each reason, each with the first entry that allows it on a lane."""
    entries = list(entries)
    return [
        Skipped(count, reason, next((entry.why for entry in entries if entry.covers(reason, lane)), None))
        for reason, count in Counter(reasons).items()
    ]


def _version(release: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", release)[:2])
