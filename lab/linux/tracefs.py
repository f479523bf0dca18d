"""tracefs: the ids of tracepoints, and kprobe events of the lab. Mounts tracefs if it is not mounted.

Source: `Documentation/trace/kprobetrace.rst`.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.errors import LabError
from lab.linux.privileges import lack, missing
from lab.linux.syscalls import owned, syscall

_USUAL = Path("/sys/kernel/tracing")
_MOST_CALLS = 4096  # KRETPROBE_MAXACTIVE_MAX: calls under way at once whose return a kretprobe can observe


def mounts(kind: str) -> list[Path]:
    """Return the mount points of a type of file system. Source: `/proc/self/mountinfo`, proc(5)."""
    lines = [line.split(" ") for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
    return [Path(line[4]) for line in lines if line[line.index("-") + 1] == kind]


def root() -> Path:
    """Return the mount point of tracefs, mounted if necessary. Raises `OSError` when the mount is refused."""
    places = mounts("tracefs")
    if not places:
        syscall("mount", b"tracefs", os.fsencode(_USUAL), b"tracefs", 0, None)
    return places[0] if places else _USUAL


def event_id(event: str) -> int:
    """Return the perf id of a tracepoint.

    Raises `LabError` when this kernel has no tracepoint of that name, and when only root may read tracefs (its default mode).
    """
    place = root()
    try:
        next(place.iterdir(), None)  # glob() takes a folder that it may not read for an empty one
    except PermissionError:
        raise lack(f"reading {place}", "DAC_READ_SEARCH") from None
    for path in place.glob(f"events/*/{event}/id"):
        return int(path.read_text(encoding="utf-8"))
    raise LabError(f"this kernel has no tracepoint `{event}`: see lab doctor")


@contextmanager
def return_event(group: str, name: str, function: str) -> Iterator[int]:
    """Create an event for the return of a kernel function, remove it at the end of the block, and yield its perf id.

    The event observes the returns of up to 4096 calls under way at once. Raises `OSError` when the kernel refuses.
    """
    write_kprobe_event(f"r{_MOST_CALLS}:{group}/{name} {function}")
    try:
        yield int((root() / "events" / group / name / "id").read_text(encoding="utf-8"))
    finally:
        write_kprobe_event(f"-:{group}/{name}")


def remove_events(group: str) -> None:
    """Remove the events of a group, which a killed process left behind."""
    for event in events(group):
        write_kprobe_event(f"-:{group}/{event.name}")


def events(group: str) -> list[Path]:
    """Return the folders of a group's events, none if tracefs is not mounted."""
    return [event.parent for place in mounts("tracefs")[:1] for event in place.glob(f"events/{group}/*/id")]


def write_kprobe_event(line: str) -> None:
    """Write one line (syntax: kprobetrace.rst) to `kprobe_events`, which adds or removes an event.

    Raises `OSError` when the kernel refuses the line or has no kprobe events, and `LabError` when this user may not write it.
    """
    place = root() / "kprobe_events"
    if not place.exists():
        raise OSError(errno.ENOENT, "this kernel has no kprobe events")
    # open("a") seeks to the file's end, which older kernels refuse here. open("w") would remove the events of all
    # processes.
    if missing("DAC_OVERRIDE") and not os.access(place, os.W_OK, effective_ids=True):
        raise lack(f"writing {place}", "DAC_OVERRIDE")
    with owned(os.open(place, os.O_WRONLY | os.O_APPEND)) as fd:
        os.write(fd, line.encode() + b"\n")
