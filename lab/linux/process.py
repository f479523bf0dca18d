"""Memory and CPU time of a process and its descendants, from /proc (proc(5))."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from lab.units import SECOND

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """Return the ids of a process and its descendants."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            found += map(int, children.read_text(encoding="utf-8").split())
    return found


def memory(pid: int, what: str = "VmRSS") -> int:
    """Resident memory of a process in bytes: current (`VmRSS`) or peak (`VmHWM`)."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(what)), 0)


def family_memory(pid: int, what: str = "VmRSS") -> int:
    """Sum of `memory` over a process and its descendants. Shared memory counts once per process."""
    return sum(memory(member, what) for member in family(pid))


def largest_mappings(pid: int, number: int = 3) -> str:
    """Return the largest parts of a family's resident memory as text, in MB: mapped files, heap, anonymous memory."""
    sizes: Counter[str] = Counter()
    for member in family(pid):
        name = ""
        for line in Path(f"/proc/{member}/smaps").read_text(encoding="utf-8").splitlines():
            words = line.split()
            if not words[0].endswith(
                ":"
            ):  # first line of a mapping: addresses, permissions, offset, device, inode, name
                name = words[5].rpartition("/")[2] if len(words) > 5 else "[anonymous]"
            elif words[0] == "Rss:":
                sizes[name] += int(words[1]) * 1024
    return ", ".join(f"{size / 1e6:.0f} MB {name}" for name, size in sizes.most_common(number))


def forget_peak(pid: int) -> None:
    """Reset `VmHWM` to the current resident memory (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="utf-8")


def busy_ns(pid: int) -> int:
    """CPU time of a process and its descendants, in nanoseconds. The resolution is one clock tick (`SC_CLK_TCK`)."""
    total = 0
    for member in family(pid):
        fields = Path(f"/proc/{member}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) * _TICK_NS
    return total


def busy_share(pid: int, seconds: float) -> float:
    """Return the CPU use of a process and its descendants over the next `seconds`. 1.0 is one busy processor."""
    before_ns = busy_ns(pid)
    time.sleep(seconds)
    return (busy_ns(pid) - before_ns) / (seconds * SECOND)


class Owner(NamedTuple):
    """A process and its name."""

    pid: int
    comm: str


class SocketOwners:
    """The processes that hold sockets, by the inode number of the socket's file (/proc/PID/fd).

    A socket that no process holds is looked up again after a second at the earliest.
    """

    def __init__(self) -> None:
        self._known: dict[int, Owner] = {}
        self._looked_ns = 0

    def of(self, inode: int) -> Owner | None:
        """Return the first process that holds a socket, None if there is none or it is in another PID namespace."""
        if inode and inode not in self._known and time.monotonic_ns() > self._looked_ns + SECOND:
            self._known = dict(_socket_owners())
            self._looked_ns = time.monotonic_ns()
        return self._known.get(inode)


def _socket_owners() -> Iterator[tuple[int, Owner]]:
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: -int(path.name)):
        with suppress(OSError):  # it has ended, or is another user's
            comm = (process / "comm").read_text(encoding="utf-8", errors="replace").rstrip("\n")
            for link in (process / "fd").iterdir():
                with suppress(OSError):
                    target = str(link.readlink())
                    if target.startswith("socket:["):
                        yield int(target[8:-1]), Owner(int(process.name), comm)
