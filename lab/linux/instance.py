"""What a run owns, and how a later run knows that it is gone.

A run is one process that builds namespaces or loads programs. It has a folder `/run/lab/<run>` with a locked file. The
kernel drops the lock when the process dies, however it dies: a folder that can be locked belonged to a dead run, and
what bears that run's name is swept by the next one. Nothing of a run that is alive can be mistaken for that.
"""

import atexit
import fcntl
import os
import shutil
from functools import cache
from pathlib import Path

from lab.errors import LabError
from lab.linux import tracefs
from lab.linux.netns import NAMED, remove

INSTANCES = Path("/run/lab")


class Instance:
    """This process's run: `name` is a prefix nobody else has, `path` a folder for its temporary files."""

    def __init__(self) -> None:
        require_root()
        INSTANCES.mkdir(exist_ok=True)
        # While the gate is held, no folder exists whose lock is yet to be taken.
        with (INSTANCES / "gate").open("w") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            self.name = os.urandom(3).hex()
            self.path = INSTANCES / self.name
            self.path.mkdir()
            self._lock = (self.path / "lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._pid = os.getpid()
        atexit.register(self.close)

    @classmethod
    @cache
    def current(cls) -> "Instance":
        """Return the run of this process, made on first use; the leavings of dead runs are swept then."""
        run = cls()
        sweep()
        return run

    def close(self) -> None:
        """Remove the folder; a forked child leaves it to its parent."""
        if os.getpid() == self._pid:
            # A sweep must not find the folder half gone.
            with (INSTANCES / "gate").open("w") as gate:
                fcntl.flock(gate, fcntl.LOCK_EX)
                shutil.rmtree(self.path, ignore_errors=True)
                self._lock.close()


def sweep() -> list[str]:
    """Remove what dead runs left; returns their names. Runs that are alive are not touched."""
    swept = []
    with (INSTANCES / "gate").open("w") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        for path in INSTANCES.iterdir():
            if not path.is_dir():
                continue
            with (path / "lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                for namespace in NAMED.glob(f"lab-{path.name}-*"):
                    remove(namespace.name)
                tracefs.remove_events(event_group(path.name))
                shutil.rmtree(path)
                swept.append(path.name)
    return swept


def event_group(run: str) -> str:
    """Name the group of the events that a run of this name makes in tracefs."""
    return f"lab_{run}"


def require_root() -> None:
    """Raise `LabError` unless the process is root."""
    if os.geteuid() != 0:
        raise LabError("the lab builds network namespaces and loads BPF programs: run it as root (sudo)")
