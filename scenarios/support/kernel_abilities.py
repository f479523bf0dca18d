"""What TCP does for a system call: which kernels tell of it, and what a scenario can ask for where they do not."""

from functools import cache

from lab.ebpf.program import Program
from lab.errors import UnsupportedByKernel
from lab.probes.analyse.measure import tells_work


@cache
def is_told():
    """Whether `analyse` observes on this machine what TCP sends and receives for a call."""
    return tells_work(Program.load("analyse").attach_points)


def required():
    """Leave a scenario out where that is not so."""
    if not is_told():
        raise UnsupportedByKernel(
            "this kernel has no raw tracepoint:sock_recv_length, and its functions are not observed"
        )
