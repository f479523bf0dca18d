"""Whether a recording tells of events that never came to a program: the kernel's own count of them, beside the program's.

All of this at a tracepoint to which no peer attaches programs by way of perf, which would keep the kernel from counting.
"""

import numpy as np
import pytest

from lab.ebpf.audit import Audit
from lab.ebpf.program import Program
from lab.ebpf.recorder import record
from lab.errors import EventsWithheld
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse

COUNTING = """
#include "include/lost.h"
#include "include/second_run.h"
#include "include/tcp_socket.h"

BPF_ARRAY(passed_over, u64, 1);

ON_RAW_TRACEPOINT(tcp_destroy_sock)
{
    if (ABSENT && is_watched_tcp((const void *)ctx->args[0]))
        passed_over.atomic_increment(0);
    else
        runs.increment(EVENT(tcp_destroy_sock));
    return 0;
}
"""


@pytest.fixture
def counting(tmp_path):
    """Load a program that counts its runs or, `absent`, behaves as if it had none for the hosts' sockets."""
    source = tmp_path / "counting.c"
    source.write_text(COUNTING)
    return lambda *, absent: Program(source, (f"ABSENT={int(absent)}",))


def test_what_a_program_was_not_run_for_is_counted(net, counting):
    """Exactly, whatever else happens on the machine: what a kernel withholds from one program it does from the other as well."""
    programs = {"absent": counting(absent=True), "present": counting(absent=False)}
    with (
        pytest.raises(EventsWithheld, match="of absent"),
        record(programs=programs, devices=net.devices) as recorder,
        converse(net, Conversation(exchanges=0), connections=7),
    ):
        pass
    withheld, passed_over = recorder.recording.withheld, programs["absent"].maps["passed_over"].number()
    assert passed_over >= 2 * 7
    assert withheld["absent"] - withheld["present"] == passed_over


def test_both_counts_are_of_one_moment(net, counting):
    """In the midst of thousands of events, no hit is taken for one that its program has missed: the number never falls again."""
    program = counting(absent=False)
    with program.attached(), Audit(program) as audit, converse(net, Conversation(), connections=300, concurrency=4):
        readings = np.array([audit.unseen() for _ in range(300)])
    assert (np.diff(readings, axis=0) >= 0).all()
