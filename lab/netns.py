"""Being inside a network namespace: entering one, naming one, reading what it holds. No netlink here."""

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from lab.errors import LabError
from lab.tcp import State

NAMED = Path("/run/netns")
_CLONE_NEWNET = 0x40000000

T = TypeVar("T")


def path_of(name: str) -> Path:
    """Return the file of a named namespace. Raises `LabError` when there is none of that name."""
    path = NAMED / name
    if not path.exists():
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


def inside(name: str, function: Callable[[], T]) -> T:
    """Call a function in a named namespace; the calling thread itself stays where it is."""
    result: list[T] = []
    failure: list[BaseException] = []

    def call() -> None:
        try:
            enter(name)
            result.append(function())
        except BaseException as error:  # noqa: BLE001 (raised again in the calling thread)
            failure.append(error)

    thread = threading.Thread(target=call, name=f"in {name}")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


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


@contextmanager
def entered(name: str) -> Iterator[None]:
    """Run the block's code, on this thread, inside a named namespace, and return to the former one afterwards."""
    with Path("/proc/thread-self/ns/net").open("rb") as before:
        enter(name)
        try:
            yield
        finally:
            _setns(before.fileno(), "that the thread came from")
