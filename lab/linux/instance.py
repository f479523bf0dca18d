"""Instances of the lab: ownership of namespaces, kprobe events and temporary files, and removal after a crash.

An instance is a process that builds namespaces or loads programs. It has a folder `/run/lab/<instance>` with a locked file. The
kernel releases the lock at the end of the process, whatever ended it. So a folder that can be locked belongs to a dead instance,
and the next instance removes everything of that name. The objects of a live instance are safe: its file is locked. The folder is
the record that a sweep needs, so it is removed last, and only when nothing else of the instance is left.

`/run/lab` belongs to root alone: a lock that another user could take would stop every command. Instances of other users, who may
have the capabilities that a live tool needs, are in a folder of their own: `XDG_RUNTIME_DIR`, which belongs to the user alone, or
`/tmp`. They build no namespaces, and their sweeps do not touch those of others.
"""

import atexit
import fcntl
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from lab.errors import LabError
from lab.linux import tracefs
from lab.linux.netns import NAMED, remove
from lab.linux.privileges import require_root
from lab.signals import defer_signals

_RUNTIME_DIR = "XDG_RUNTIME_DIR"
INSTANCES = (
    Path("/run/lab") if os.geteuid() == 0 else Path(os.environ.get(_RUNTIME_DIR) or "/tmp", f"lab-{os.geteuid()}")  # noqa: S108 (its owner and mode are checked)
)
_ELSEWHERE = "" if os.geteuid() == 0 else f", or set {_RUNTIME_DIR} to a folder of this user"
_GATE_LIMIT_S = 20.0
_NAMESPACE = re.compile(r"lab-([0-9a-f]{6})-.*")


class Instance:
    """The instance of this process: `name` is unique on the machine, `path` is a folder for its temporary files."""

    def __init__(self) -> None:
        # The gate keeps a sweep from finding the folder before its file is locked.
        with defer_signals(), _gate():
            self.name = os.urandom(3).hex()
            self.path = INSTANCES / self.name
            self.path.mkdir(mode=0o700)
            self._lock = _opened(self.path / "lock")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._pid = os.getpid()
        atexit.register(self.close)

    @classmethod
    @cache
    def current(cls) -> "Instance":
        """Return the instance of this process. The first call creates it and removes what dead instances left behind."""
        instance = cls()
        sweep()
        return instance

    def namespaces(self) -> str:
        """Return the beginning of the names of this instance's namespaces. Raises `LabError` unless this process is root."""
        require_root()
        return f"lab-{self.name}-"

    def close(self) -> None:
        """Remove what is left of the instance and then its folder, unless this is a forked child: the parent does it."""
        if os.getpid() != self._pid:
            return
        # The gate keeps a sweep from finding a part of the folder.
        try:
            with defer_signals(), _gate():
                if _removed(self.name):
                    shutil.rmtree(self.path, ignore_errors=True)
                os.close(self._lock)
        except (OSError, LabError) as error:
            print(f"lab: {self.path} is left ({error}): the next command removes it", file=sys.stderr)


def sweep() -> list[str]:
    """Remove what dead instances left behind and return their names. Live instances are not touched."""
    swept = []
    with defer_signals(), _gate():
        for path in INSTANCES.iterdir():
            if path.is_dir() and _is_dead(path) and _removed(path.name):
                shutil.rmtree(path)
                swept.append(path.name)
        if os.geteuid() != 0:
            return swept
        # Namespaces without a record: the folder exists before an instance's first namespace and is removed after its last.
        recorded = {path.name for path in INSTANCES.iterdir()}
        for namespace in NAMED.glob("lab-*"):
            owner = _NAMESPACE.fullmatch(namespace.name)
            if owner and owner[1] not in recorded:
                remove(namespace.name)
    return swept


def event_group(instance: str) -> str:
    """Return the tracefs group of the kprobe events of the instance with this name."""
    return f"lab_{instance}"


def _removed(name: str) -> bool:
    """Remove the namespaces and kprobe events of an instance; return false if something is left."""
    for namespace in NAMED.glob(f"lab-{name}-*"):
        remove(namespace.name)
    with suppress(OSError):  # EBUSY: a process that is about to end still has the event open
        tracefs.remove_events(event_group(name))
    return not any(NAMED.glob(f"lab-{name}-*")) and not tracefs.events(event_group(name))


def _is_dead(path: Path) -> bool:
    """Return true if no process holds the lock of an instance's folder."""
    lock = _opened(path / "lock")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


@contextmanager
def _gate() -> Iterator[None]:
    """Let one process at a time create, remove and sweep instances. Raises `LabError` when another one takes too long."""
    _require_own_folder()
    path, deadline = INSTANCES / "gate", time.monotonic() + _GATE_LIMIT_S
    gate = _opened(path)
    try:
        while True:
            try:
                fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    holder = os.pread(gate, 20, 0).decode() or "unknown"
                    raise LabError(f"process {holder} has held {path} for {_GATE_LIMIT_S:g} s: end it") from None
                time.sleep(0.002)
            else:
                break
        os.ftruncate(gate, 0)
        os.pwrite(gate, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(gate)


def _require_own_folder() -> None:
    """Create the folder for this user alone, or check that it is. Raises `LabError` when it cannot be had."""
    try:
        with suppress(FileExistsError):
            INSTANCES.mkdir(mode=0o700)
        found = INSTANCES.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise LabError(f"{INSTANCES} is not a folder of this user alone: remove it{_ELSEWHERE}")
        if stat.S_IMODE(found.st_mode) != 0o700:
            INSTANCES.chmod(0o700)
    except OSError as error:
        raise LabError(
            f"{INSTANCES} cannot be used ({error.strerror}), where the lab keeps its locks: mount a writable /run{_ELSEWHERE}"
        ) from error


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
