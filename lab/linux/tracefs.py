"""Where the kernel lists its tracepoints, and takes more of them; mounted here when nobody has.

Source: `Documentation/trace/kprobetrace.rst`.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.errors import LabError
from lab.linux.bpf import owned, syscall

_USUAL = Path("/sys/kernel/tracing")
_UNDER_WAY = 4096  # KRETPROBE_MAXACTIVE_MAX: of how many calls at a time the return can be awaited


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


@contextmanager
def return_event(group: str, name: str, function: str) -> Iterator[int]:
    """Make an event of a kernel function's return while open; yields the number that perf knows it by.

    The return of up to 4096 calls that are under way at once is seen. `OSError` when the kernel refuses it.
    """
    tell_kprobes(f"r{_UNDER_WAY}:{group}/{name} {function}")
    try:
        yield int((root() / "events" / group / name / "id").read_text())
    finally:
        tell_kprobes(f"-:{group}/{name}")


def remove_events(group: str) -> None:
    """Take away the events of a group that a killed process has left."""
    for event in events(group):
        tell_kprobes(f"-:{group}/{event.name}")


def events(group: str) -> list[Path]:
    """Return the folders of a group's events, none where tracefs is not mounted."""
    return [event.parent for place in mounts("tracefs")[:1] for event in place.glob(f"events/{group}/*/id")]


def tell_kprobes(line: str) -> None:
    """Make or take away one event, in the kernel's own words. `OSError` when it refuses that, or has no such events."""
    place = root() / "kprobe_events"
    if not place.exists():
        raise OSError(errno.ENOENT, "this kernel has no kprobe events")
    # Not by open("a"), which looks for the file's end: older kernels refuse that here. And "w" would take away everybody's events.
    with owned(os.open(place, os.O_WRONLY | os.O_APPEND)) as fd:
        os.write(fd, line.encode() + b"\n")
