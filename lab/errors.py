"""Errors that are shown to the user as one sentence, without a traceback, with exit status 2."""

import errno
import sys
from pathlib import Path
from typing import Self

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a file system, a quota or a file that is full."""

_REMEDIES = {
    **dict.fromkeys(FULL, "the output cannot be written ({}): free some space, or write it to another place"),
    errno.EMFILE: "no file descriptors are left ({}): raise the limit of open files (ulimit -n)",
    errno.ENFILE: "no file descriptors are left ({}): close some programs, or raise fs.file-max",
    errno.EAGAIN: "no process or thread can be started ({}): raise ulimit -u, or pids.max of the cgroup",
    errno.ENOMEM: "no memory is left ({}): close some programs, or raise the limit (ulimit -v, -l, or the cgroup's)",
}
"""By error number, what the user can do when a resource is exhausted."""

_NO_REFUSALS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Error numbers by which a system call never says that the kernel lacks something."""


class LabError(Exception):
    """An error that the user can fix. The message is one sentence that says how."""

    @classmethod
    def refusal(cls, what: str, error: OSError) -> Self:
        """Return the error for something that the kernel refuses. Raises `Exhausted` if that is not the kernel's fault."""
        require_resources(error)
        return cls(f"this kernel refuses {what} ({error.strerror}): see lab doctor")


class Exhausted(Exception):  # noqa: N818 (a state of the machine, not a mistake)
    """A resource of the machine is exhausted. The message is one sentence that says what to do.

    Not a `LabError`: a trial of what the kernel can do must not take it for a refusal.
    """


class UnsupportedByKernel(LabError):  # noqa: N818 (a state of the kernel, not a mistake)
    """This kernel lacks something that a probe needs.

    A scenario that raises it is skipped if the lane allows the skip (lab/results/allowed_skips.py).
    """


class EventsLost(LabError):  # noqa: N818 (named after the event)
    """A recording is incomplete because buffers were full. `lost` has the number of lost events by probe."""

    def __init__(self, lost: dict[str, int]) -> None:
        self.lost = lost
        counts = ", ".join(f"{count} of {probe}" for probe, count in lost.items())
        super().__init__(
            f"the recording lost events ({counts}): drain more often, enlarge the ring or ask for a lossy recording"
        )


class EventsWithheld(LabError):  # noqa: N818 (as above)
    """The kernel did not run a BPF program for some events.

    `withheld` has their number by probe (`lab.recording.recording.Recording`).
    """

    def __init__(self, withheld: dict[str, int]) -> None:
        self.withheld = withheld
        counts = ", ".join(f"{count} of {probe}" for probe, count in withheld.items())
        super().__init__(f"this kernel did not run the probe for some events ({counts}): record again")


class FramesDropped(LabError):  # noqa: N818 (as above)
    """The kernel dropped frames between two namespaces, for example because a processor could not keep up."""

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(f"the kernel dropped {count} frames between the namespaces: record again with less traffic")


def require_resources(error: OSError) -> None:
    """Raise `Exhausted` if a system call has failed for lack of memory or file descriptors."""
    if error.errno in _NO_REFUSALS:
        raise Exhausted(_REMEDIES[error.errno].format(error.strerror)) from error


def remedy(error: BaseException) -> str | None:
    """Return one sentence for an error whose cause is the machine and not the lab; None for any other error."""
    if isinstance(error, Exhausted):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return _not_mounted(str(error.filename))
    if isinstance(error, ModuleNotFoundError):
        return _not_installed(str(error.name))
    number = error.errno if isinstance(error, OSError) else None
    text = _said(error) if isinstance(error, OSError) and number else str(error)
    if isinstance(error, MemoryError):
        number, text = errno.ENOMEM, text or "an allocation failed"
    # dlopen(3) and Python's threads have no error of their own for this.
    elif isinstance(error, ImportError | OSError) and "failed to map segment" in text:
        number, text = errno.ENOMEM, "a library cannot be loaded"
    elif isinstance(error, RuntimeError) and "can't start new thread" in text:
        number = errno.EAGAIN if _have_room_for_stack() else errno.ENOMEM
    return _REMEDIES[number].format(text) if number in _REMEDIES else None


def _have_room_for_stack() -> bool:
    import mmap  # noqa: PLC0415 (only after an error)

    try:
        mmap.mmap(-1, 1 << 23).close()
    except OSError:
        return False
    return True


def _not_installed(module: str) -> str | None:
    """Return how to install a package that this one declares, as a dependency or in an extra; None for any other module."""
    from importlib.metadata import PackageNotFoundError, requires  # noqa: PLC0415 (the metadata slow down a start)

    try:
        declared = requires("tcp-truth-lab") or ()
    except PackageNotFoundError:
        return None
    pins = (line.partition(";")[0].strip() for line in declared)
    pin = next((pin for pin in pins if pin.startswith(f"{module}==")), None)
    return pin and f"this command needs {module}, which is not installed: run `{sys.executable} -m pip install {pin}`"


def _said(error: OSError) -> str:
    return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)


def _not_mounted(path: str) -> str | None:
    for place, always, kind in (("/sys", "/sys/devices", "sysfs"), ("/proc", "/proc/self", "proc")):
        if path.startswith(place) and not Path(always).exists():
            return f"{path} does not exist: mount {place} (mount -t {kind} {kind} {place})"
    return None
