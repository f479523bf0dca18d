"""Named network namespaces: creating, entering and removing them, and listing their TCP sockets. No netlink here."""

import ctypes
import errno
import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from lab.errors import LabError
from lab.linux.privileges import lack, missing
from lab.linux.syscalls import syscall
from lab.tcp import State

NAMED = Path("/run/netns")
_MNT_DETACH = 2
_MS_BIND = 4096
_CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703  # ioctl_ns(2)
_PROCESS = re.compile(r"[0-9]{1,10}")

T = TypeVar("T")


def path_of(name: str) -> Path:
    """Return the file of a namespace, given as a name, as the id of a process in it, or as a path.

    A name comes before a process id, as in ip(8). Raises `LabError` when there is no such namespace.
    """
    if "/" not in name and (path := NAMED / name).is_file():
        return path
    if _PROCESS.fullmatch(name):
        path = Path("/proc", name, "ns/net")
        if not path.parent.exists():
            raise LabError(f"there is neither a network namespace nor a process `{name}`: `ip netns list` lists names")
        return path
    if "/" not in name:
        raise LabError(
            f"there is no network namespace `{name}`: `ip netns list` lists the existing ones; "
            "containers have none there, give the id of one of their processes"
        )
    path = Path(name)
    try:
        # The file is opened only if it is one of a namespace: another file may do anything when it is opened.
        if path.stat().st_dev == Path("/proc/self/ns/net").stat().st_dev:
            with path.open("rb") as file:
                if fcntl.ioctl(file, _NS_GET_NSTYPE) == _CLONE_NEWNET:
                    return path
    except OSError as error:
        if isinstance(error, PermissionError) and path.is_relative_to("/proc"):
            raise _hidden(name) from None
        raise LabError(f"`{name}` is no network namespace ({error.strerror}): give its name or a process id") from error
    raise LabError(f"`{name}` is not the file of a network namespace: give one like /proc/PID/ns/net")


def inode_of(name: str) -> int:
    """Return the namespace's inode number, by which kernel events name it; see `path_of` for the forms of `name`."""
    try:
        return path_of(name).stat().st_ino
    except PermissionError:
        raise _hidden(name) from None


def _hidden(name: str) -> LabError:
    """Return the error for a process whose namespaces the kernel hides from this one (ptrace(2), access mode checking)."""
    if missing("SYS_PTRACE"):
        return lack(f"finding the network namespace of `{name}`, a process of another user,", "SYS_PTRACE")
    return LabError(f"the kernel hides the network namespace of `{name}`: give the id of another process in it")


def enter(name: str) -> None:
    """Move the calling thread into a namespace (`path_of`). Raises `LabError` if it does not exist, or without privileges."""
    try:
        with path_of(name).open("rb") as file:
            _setns(file.fileno(), name)
    except PermissionError:
        raise _hidden(name) from None


def _setns(fd: int, name: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        if error == errno.EPERM:
            raise lack(f"entering the network namespace `{name}`", "SYS_ADMIN")
        raise LabError(f"cannot enter the network namespace `{name}` ({os.strerror(error)}): see lab doctor")


@contextmanager
def _returning() -> Iterator[None]:
    """Move the calling thread back to its namespace after the block; setns(2) and unshare(2) move one thread only."""
    own = Path("/proc/thread-self/ns/net")
    with own.open("rb") as before:
        try:
            yield
        finally:
            if not os.path.samestat(
                os.fstat(before.fileno()), own.stat()
            ):  # without privileges the thread has not moved
                _setns(before.fileno(), "of the caller")


def inside(name: str, function: Callable[[], T]) -> T:
    """Call a function on the calling thread in a namespace (`path_of`), then move the thread back to its own.

    A separate thread would continue to work while an interrupted caller already cleans up.
    """
    with _returning():
        enter(name)
        return function()


def leave() -> None:
    """Move the calling thread into a new namespace without a name, whose loopback is down. Raises `OSError`."""
    syscall("unshare", _CLONE_NEWNET)


def create(name: str) -> None:
    """Create a named network namespace, like `ip netns add`. Raises `LabError` on a refusal or if the name exists."""
    path = NAMED / name
    try:
        NAMED.mkdir(parents=True, exist_ok=True)
        path.touch(exist_ok=False)
        try:
            with _returning():
                leave()
                syscall("mount", b"/proc/thread-self/ns/net", os.fsencode(path), b"none", _MS_BIND, None)
        except OSError:
            path.unlink()
            raise
    except OSError as error:
        raise LabError(f"cannot create the network namespace `{name}` ({error.strerror}): see lab doctor") from error


def remove(name: str) -> None:
    """Remove a named namespace if it exists. The kernel destroys its contents when the last process has left it."""
    path = NAMED / name
    with suppress(FileNotFoundError):
        with suppress(OSError):  # create() was interrupted before the mount
            syscall("umount2", os.fsencode(path), _MNT_DETACH, 0)
        path.unlink()


class Socket(NamedTuple):
    """A TCP socket: addresses as in `/proc/net/tcp` (hexadecimal), and state."""

    local: str
    remote: str
    state: State


def tcp_sockets(name: str) -> list[Socket]:
    """Return the TCP sockets of a named namespace, IPv4 and IPv6."""

    def read() -> list[Socket]:
        lines = []
        for table in ("tcp", "tcp6"):
            path = Path("/proc/thread-self/net") / table
            if path.exists():  # a kernel without IPv6 has no tcp6
                lines += path.read_text(encoding="utf-8").splitlines()[1:]
        fields = [line.split() for line in lines]
        return [Socket(f[1], f[2], State(int(f[3], 16))) for f in fields]

    return inside(name, read)
