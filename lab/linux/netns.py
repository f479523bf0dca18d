"""Being inside a network namespace: entering one, naming one, reading what it holds. No netlink here."""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from lab.errors import LabError
from lab.linux.bpf import syscall
from lab.tcp import State

NAMED = Path("/run/netns")
_MNT_DETACH = 2
_MS_BIND = 4096
_CLONE_NEWNET = 0x40000000

T = TypeVar("T")


def path_of(name: str) -> Path:
    """Return the file of a named namespace. Raises `LabError` when there is none of that name."""
    path = NAMED / name
    if "/" in name or not path.is_file():
        raise LabError(f"there is no network namespace `{name}`: `ip netns list` shows those there are")
    return path


def inode_of(name: str) -> int:
    """Return the namespace's inode number, which is how kernel events name it."""
    return path_of(name).stat().st_ino


def enter(name: str) -> None:
    """Move the calling thread into a named namespace. Raises `LabError` when there is none, or without privilege."""
    with path_of(name).open("rb") as file:
        _setns(file.fileno(), name)


def _setns(fd: int, name: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _CLONE_NEWNET) != 0:
        raise LabError(f"cannot enter the network namespace `{name}` ({os.strerror(ctypes.get_errno())}): run as root")


@contextmanager
def _returning() -> Iterator[None]:
    """Bring the calling thread back to the namespace it is in now; setns(2) and unshare(2) move one thread only."""
    with Path("/proc/thread-self/ns/net").open("rb") as before:
        try:
            yield
        finally:
            _setns(before.fileno(), "that the thread came from")


def inside(name: str, function: Callable[[], T]) -> T:
    """Call a function in a named namespace, on the calling thread, which is back where it was afterwards.

    Not on a thread of its own: an interrupted caller would go on to clean up while that thread is still at work.
    """
    with _returning():
        enter(name)
        return function()


def create(name: str) -> None:
    """Make a named network namespace, as `ip netns add` does. Raises `LabError` when that is refused or the name is taken."""
    path = NAMED / name
    try:
        NAMED.mkdir(parents=True, exist_ok=True)
        path.touch(exist_ok=False)
        try:
            with _returning():
                syscall("unshare", _CLONE_NEWNET)
                syscall("mount", b"/proc/thread-self/ns/net", os.fsencode(path), b"none", _MS_BIND, None)
        except OSError:
            path.unlink()
            raise
    except OSError as error:
        raise LabError(f"cannot make the network namespace `{name}` ({error.strerror}): see lab doctor") from error


def remove(name: str) -> None:
    """Remove a named namespace, and with its last process what is in it; one that is not there is fine."""
    path = NAMED / name
    with suppress(FileNotFoundError):
        with suppress(OSError):  # the file of a namespace whose making was interrupted is no mount yet
            syscall("umount2", os.fsencode(path), _MNT_DETACH, 0)
        path.unlink()


class Socket(NamedTuple):
    """A TCP socket as `/proc/net/tcp` shows it."""

    local: str
    remote: str
    state: State


def tcp_sockets(name: str) -> list[Socket]:
    """Every TCP socket of a namespace; addresses as `/proc/net/tcp` writes them."""

    def read() -> list[Socket]:
        lines = []
        for table in ("tcp", "tcp6"):
            path = Path("/proc/thread-self/net") / table
            if path.exists():  # a kernel without IPv6 has one table
                lines += path.read_text().splitlines()[1:]
        fields = [line.split() for line in lines]
        return [Socket(f[1], f[2], State(int(f[3], 16))) for f in fields]

    return inside(name, read)
