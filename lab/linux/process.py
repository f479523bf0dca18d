"""Memory and CPU time of a process and its descendants, from /proc (proc(5))."""

import os
import time
from collections import Counter
from pathlib import Path

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
