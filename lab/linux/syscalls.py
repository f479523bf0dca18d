"""System calls made by number, and file descriptors that close with a block.

What lives here: `syscall` and `owned`. What does not: bpf(2) and perf_event_open(2), which are in `bpf.py`.
"""

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lab.errors import LabError, require_resources

# Called by number because the C library has no wrapper for bpf(2), perf_event_open(2) and fsopen(2), and because its setresuid()
# changes the ids of all threads (nptl(7)), where the system call changes those of the calling thread.
_NUMBERS = {
    "x86_64": {
        "bpf": 321,
        "fsconfig": 431,
        "fsmount": 432,
        "fsopen": 430,
        "io_uring_enter": 426,
        "io_uring_setup": 425,
        "membarrier": 324,
        "mount": 165,
        "perf_event_open": 298,
        "prctl": 157,
        "setresuid": 117,
        "umount2": 166,
        "unshare": 272,
    },
    "aarch64": {
        "bpf": 280,
        "fsconfig": 431,
        "fsmount": 432,
        "fsopen": 430,
        "io_uring_enter": 426,
        "io_uring_setup": 425,
        "membarrier": 283,
        "mount": 40,
        "perf_event_open": 241,
        "prctl": 167,
        "setresuid": 147,
        "umount2": 39,
        "unshare": 97,
    },
}
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long


def syscall(name: str, *arguments: Any) -> int:
    """Make a system call and return its result.

    Raises `OSError` with the call's errno, `Exhausted` for lack of memory or file descriptors, and `LabError` on a machine
    whose call numbers are not listed here.
    """
    machine = os.uname().machine
    numbers = _NUMBERS.get(machine)
    if numbers is None:
        raise LabError(f"the lab runs on {' and '.join(_NUMBERS)}, not on {machine}: use one of those machines")
    # ctypes passes a plain integer as a 32-bit int.
    wide = (ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments)
    result = int(_LIBC.syscall(ctypes.c_long(numbers[name]), *wide))
    if result < 0:
        number = ctypes.get_errno()
        error = OSError(number, os.strerror(number))
        require_resources(error)
        raise error
    return result


@contextmanager
def owned(fd: int) -> Iterator[int]:
    """Close the file descriptor at the end of the block. That detaches a BPF link and frees a program or a map."""
    try:
        yield fd
    finally:
        os.close(fd)


def signal_on_parent_death(number: int, parent: int) -> None:
    """Have the kernel send this process a signal when the thread that started it ends: PR_SET_PDEATHSIG, prctl(2).

    `parent` is the id of the parent, which may have ended before the call: then the signal is sent at once.
    """
    syscall("prctl", _PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        signal.raise_signal(number)
