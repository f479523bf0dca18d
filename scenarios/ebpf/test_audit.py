"""The audit counts the events that the kernel withheld from a program.

These tests use a tracepoint to which no other tool attaches a program by perf: with one the kernel may not count the
tracepoint's hits (`lab/ebpf/audit.py`).
"""

import numpy as np
import pytest

from lab.ebpf.audit import Audit
from lab.ebpf.program import Program
from lab.errors import EventsWithheld
from lab.recording.recorder import record
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse

COUNTING = """
#include "include/lost.h"
#include "include/second_run.h"
#include "include/tcp_socket.h"

BPF_ARRAY(ignored, u64, 1);

ON_RAW_TRACEPOINT(tcp_destroy_sock)
{
    if (ABSENT && is_watched_tcp((const void *)ctx->args[0]))
        ignored.atomic_increment(0);
    else
        runs.increment(EVENT(tcp_destroy_sock));
    return 0;
}
"""


@pytest.fixture
def counting(tmp_path):
    """Load a program that counts its runs; with `absent` not those for the hosts' sockets, as if withheld."""
    source = tmp_path / "counting.c"
    source.write_text(COUNTING)
    return lambda *, absent: Program(source, (f"ABSENT={int(absent)}",))


def test_withheld_events_are_counted(net, counting):
    """The count is exact. Two programs are compared, since the kernel withholds other events from both alike."""
    programs = {"absent": counting(absent=True), "present": counting(absent=False)}
    with (
        pytest.raises(EventsWithheld, match="of absent"),
        record(programs=programs, devices=net.devices) as recorder,
        converse(net, Conversation(exchanges=0), connections=7),
    ):
        pass
    withheld, ignored = recorder.recording.withheld, programs["absent"].maps["ignored"].number()
    assert ignored >= 2 * 7
    assert withheld["absent"] - withheld["present"] == ignored


def test_hits_and_runs_are_read_at_the_same_time(net, counting):
    """During thousands of events the result never decreases: no reading had a hit without its run."""
    program = counting(absent=False)
    with program.attached(), Audit(program) as audit, converse(net, Conversation(), connections=300, concurrency=4):
        readings = np.array([audit.withheld() for _ in range(300)])
    assert (np.diff(readings, axis=0) >= 0).all()
