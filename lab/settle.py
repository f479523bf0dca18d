"""Waiting until the kernel is done with what it was doing: the one grace period that everything exact rests on."""

from lab.bpf_syscall import syscall
from lab.errors import LabError

_MEMBARRIER_CMD_GLOBAL = 1


def settle() -> None:
    """Return when whatever the kernel was doing with packets at the time of the call is done.

    Receive processing runs inside RCU read-side sections, and `MEMBARRIER_CMD_GLOBAL` waits for all of them
    (`kernel/sched/membarrier.c`): an event that belongs to something already visible is in the ring afterwards. With one
    processor it returns at once, since nothing is under way there.
    """
    try:
        syscall("membarrier", _MEMBARRIER_CMD_GLOBAL, 0, 0)
    except OSError as error:
        raise LabError(f"this kernel refuses membarrier ({error.strerror}): boot it without nohz_full") from error
