"""Where the kernel lists its tracepoints; mounted here when nobody has."""

import os
from pathlib import Path

from lab.bpf_syscall import syscall
from lab.errors import LabError

_USUAL = Path("/sys/kernel/tracing")


def mounts(kind: str) -> list[Path]:
    """Find where file systems of a kind are mounted. Source: `/proc/self/mountinfo`, proc(5)."""
    lines = [line.split(" ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [Path(line[4]) for line in lines if line[line.index("-") + 1] == kind]


def root() -> Path:
    """Return tracefs, mounting it when it is not mounted. Raises `OSError` when that is refused."""
    places = mounts("tracefs")
    if not places:
        syscall("mount", b"tracefs", os.fsencode(_USUAL), b"tracefs", 0, None)
    return places[0] if places else _USUAL


def event_id(event: str) -> int:
    """Return the number that perf knows a tracepoint by. Raises `LabError` when this kernel has none of that name."""
    for path in root().glob(f"events/*/{event}/id"):
        return int(path.read_text())
    raise LabError(f"this kernel has no tracepoint `{event}`: see lab doctor")
