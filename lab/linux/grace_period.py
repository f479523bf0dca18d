"""Waiting for work that the kernel has begun: the RCU grace period, and the backlogs of packets."""

import time
from pathlib import Path

from lab.errors import LabError
from lab.linux.syscalls import syscall

_MEMBARRIER_CMD_GLOBAL = 1
# Column of /proc/net/softnet_stat, hexadecimal: length of the CPU's backlog, the packets that wait for its softirq.
# Since Linux 5.10.
_BACKLOG = 11
_HOPS = 2  # from one host to the bridge, and from the bridge to the other host


def await_grace_period() -> None:
    """Wait until all packets and BPF programs that the kernel was processing at the call are finished.

    Receive processing and BPF programs run inside RCU read-side sections, and MEMBARRIER_CMD_GLOBAL waits for all of
    these (`kernel/sched/membarrier.c`). If an effect of an event was visible before the call, the event is in the ring
    after it. With one CPU online the call returns at once: no other CPU can be inside such a section. Raises `LabError`
    when the kernel refuses.
    """
    try:
        syscall("membarrier", _MEMBARRIER_CMD_GLOBAL, 0, 0)
    except OSError as error:
        raise LabError(f"this kernel refuses membarrier ({error.strerror}): boot it without nohz_full") from error


def await_backlogs(limit_s: float = 20.0, hops: int = _HOPS) -> None:
    """Wait until the packets that were on the way through the wire's bridge at the call have arrived.

    At each hop a packet waits in the backlog of a CPU until the CPU runs the softirq, which takes long on a busy
    machine. A backlog is first in, first out: once it was empty, all packets from before the call have left it. `hops` is
    the number of backlogs on the way. Raises `LabError` after `limit_s`.
    """
    deadline = time.monotonic() + limit_s
    for _ in range(hops):
        waiting = set(_backlogs())
        while waiting:
            waiting = {cpu for cpu, length in _backlogs().items() if cpu in waiting and length}
            if waiting and time.monotonic() > deadline:
                raise LabError(f"packets waited for longer than {limit_s:g} s: stop other work on this machine")
        await_grace_period()


def _backlogs() -> dict[int, int]:
    """Return the length of the backlog by CPU."""
    rows = [line.split() for line in Path("/proc/net/softnet_stat").read_text(encoding="utf-8").splitlines()]
    return {cpu: int(columns[_BACKLOG], 16) for cpu, columns in enumerate(rows)}
