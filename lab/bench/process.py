"""What a process and those that it has started use, as the kernel tells it in /proc."""

import os
import time
from collections import Counter
from pathlib import Path

from lab.units import SECOND

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """Return a process and everything that it has started, by id."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            found += map(int, children.read_text().split())
    return found


def memory(pid: int, what: str = "VmRSS") -> int:
    """Bytes of a process that are in memory now (`VmRSS`), or were at most (`VmHWM`)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(what)), 0)


def family_memory(pid: int, what: str = "VmRSS") -> int:
    """As `memory`, of a whole family; what they share counts for each."""
    return sum(memory(member, what) for member in family(pid))


def largest_mappings(pid: int, number: int = 3) -> str:
    """Name what takes most of a family's resident memory now, with its megabytes: mapped files, the heap, and the rest together."""
    sizes: Counter[str] = Counter()
    for member in family(pid):
        name = ""
        for line in Path(f"/proc/{member}/smaps").read_text().splitlines():
            words = line.split()
            if not words[0].endswith(":"):  # a mapping's head: addresses, permissions, offset, device, inode, name
                name = words[5].rpartition("/")[2] if len(words) > 5 else "[anonymous]"
            elif words[0] == "Rss:":
                sizes[name] += int(words[1]) * 1024
    return ", ".join(f"{size / 1e6:.0f} MB {name}" for name, size in sizes.most_common(number))


def forget_peak(pid: int) -> None:
    """Have `VmHWM` begin anew (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def busy_ns(pid: int) -> int:
    """How long a family has had processors, in nanoseconds; to the tick of the kernel's accounting."""
    total = 0
    for member in family(pid):
        fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) * _TICK_NS
    return total


def busy_share(pid: int, seconds: float) -> float:
    """Watch a family for so long; returns what of a processor it has had meanwhile: 1 is one, all the time."""
    before_ns = busy_ns(pid)
    time.sleep(seconds)
    return (busy_ns(pid) - before_ns) / (seconds * SECOND)
