"""What a lane may leave out: skips, each with the reason that the kernel or the machine gave, against a list of allowed ones.

A lane is a kernel, a way to attach and a clock. An entry of the list names the lanes that it is for and why; a skip that no entry
allows fails the run, as a scenario that nobody misses proves nothing.
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
    """Where scenarios run: the kernel's release, the way to attach (`lab.ebpf.attach.mechanism`), the clock (real or virtual)."""

    release: str
    mechanism: str
    clock: str

    @property
    def version(self) -> tuple[int, ...]:
        """Major and minor number of the kernel: (6, 1)."""
        return _version(self.release)


@dataclass(frozen=True)
class Allowed:
    """One entry of the list: which skips, by a part of their reason, on which lanes (None: on every one), and why."""

    reason: str
    why: str
    before: str | None = None  # kernels older than this
    attach: str | None = None
    clock: str | None = None

    def covers(self, reason: str, lane: Lane) -> bool:
        """Tell whether a skip may be on a lane."""
        return (
            self.reason in reason
            and (self.before is None or lane.version < _version(self.before))
            and self.attach in (None, lane.mechanism)
            and self.clock in (None, lane.clock)
        )


@dataclass(frozen=True)
class Skipped:
    """How many scenarios were left out for one reason; `why` is that of the list, None where no entry allows it."""

    count: int
    reason: str
    why: str | None

    def __str__(self) -> str:
        return f"{self.count} skipped, {self.reason}: {self.why or 'NOT ALLOWED on this lane'}"


def allowed(path: Path) -> list[Allowed]:
    """Read the list. Raises `LabError` when it is not one."""
    try:
        entries: Iterable[Mapping[str, Any]] = tomllib.loads(path.read_text()).get("skip", [])
        return [Allowed(**entry) for entry in entries]
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise LabError(f"{path} is no list of allowed skips ({error}): each [[skip]] has a reason and a why") from error


def compared(reasons: Iterable[str], entries: Iterable[Allowed], lane: Lane) -> list[Skipped]:
    """Count skips by reason, beside what allows them on a lane."""
    entries = list(entries)
    return [
        Skipped(count, reason, next((entry.why for entry in entries if entry.covers(reason, lane)), None))
        for reason, count in Counter(reasons).items()
    ]


def _version(release: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", release)[:2])
