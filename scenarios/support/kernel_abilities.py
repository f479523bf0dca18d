"""Whether this kernel lets `analyse` observe TCP's work for a system call, and a skip for scenarios that need it."""

from functools import cache

from lab.ebpf.program import Program
from lab.errors import UnsupportedByKernel
from lab.probes.analyse.measure import tells_work


@cache
def is_told():
    """Return whether `analyse` observes TCP's work for send and receive calls on this machine."""
    return tells_work(Program.load("analyse").attach_points)


def required():
    """Raise `UnsupportedByKernel`, which skips the scenario, if `is_told()` is false."""
    if not is_told():
        raise UnsupportedByKernel(
            "this kernel has no raw tracepoint:sock_recv_length, and neither fentry nor kprobe is used"
        )
