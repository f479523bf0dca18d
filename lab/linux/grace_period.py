"""Waiting until the kernel is done with what it was doing: the one grace period that everything exact rests on."""

import time
from pathlib import Path

from lab.errors import LabError
from lab.linux.bpf import syscall

_MEMBARRIER_CMD_GLOBAL = 1
_BACKLOG = (
    11  # column of /proc/net/softnet_stat since Linux 5.10: packets that wait for a processor's softirq, hexadecimal
)
_HOPS = 2  # from one host's device to the bridge, from there to the other host's


def await_grace_period() -> None:
    """Return when whatever the kernel was doing with packets at the time of the call is done.

    Receive processing runs inside RCU read-side sections, and `MEMBARRIER_CMD_GLOBAL` waits for all of them
    (`kernel/sched/membarrier.c`): an event that belongs to something already visible is in the ring afterwards. With one
    processor it returns at once, since nothing is under way there.
    """
    try:
        syscall("membarrier", _MEMBARRIER_CMD_GLOBAL, 0, 0)
    except OSError as error:
        raise LabError(f"this kernel refuses membarrier ({error.strerror}): boot it without nohz_full") from error


def await_backlogs(limit_s: float = 20.0) -> None:
    """Return when the packets that are on their way through the wire's bridge at the time of the call have arrived.

    At each hop a packet waits in the backlog of some processor, whose softirq may itself wait for its turn on a busy machine. A
    backlog is a queue: seen empty once, it holds nothing of before. Raises `LabError` after `limit_s`.
    """
    deadline = time.monotonic() + limit_s
    for _ in range(_HOPS):
        waiting = set(_backlogs())
        while waiting:
            waiting = {cpu for cpu, length in _backlogs().items() if cpu in waiting and length}
            if waiting and time.monotonic() > deadline:
                raise LabError(f"packets waited for longer than {limit_s:g} s: let the machine do less beside the lab")
        await_grace_period()


def _backlogs() -> dict[int, int]:
    """Length of each processor's backlog."""
    rows = [line.split() for line in Path("/proc/net/softnet_stat").read_text().splitlines()]
    return {cpu: int(columns[_BACKLOG], 16) for cpu, columns in enumerate(rows)}
