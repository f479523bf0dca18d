"""Whether a recording tells of events that never came to a program: the kernel's own count of them, beside the program's."""

import numpy as np
import pytest

from lab.audit import Audit
from lab.demo.conversation import Conversation
from lab.demo.process import converse
from lab.errors import EventsWithheld
from lab.program import Program
from lab.recorder import record

ABSENT = """
#include "tcp.h"

ON_RAW_TRACEPOINT(inet_sock_set_state)
{
    if (ctx->args[2] != TCP_SYN_SENT || !is_watched_tcp((const void *)ctx->args[0]))
        runs.increment(EVENT(inet_sock_set_state));
    return 0;
}
"""


@pytest.fixture
def absent(tmp_path):
    """Load a program that behaves as if it had not been run for each active open."""
    source = tmp_path / "absent.c"
    source.write_text(ABSENT)
    return Program(source)


def test_what_a_program_was_not_run_for_is_counted(net, absent):
    """Exactly, whatever else happens on the machine: what a kernel withholds from one program it does from the other as well."""
    programs = {"absent": absent, "states": Program.load("states")}
    with (
        pytest.raises(EventsWithheld, match="of absent"),
        record(programs=programs, devices=net.devices) as recorder,
        converse(net, Conversation(exchanges=0), connections=7),
    ):
        pass
    withheld = recorder.recording.withheld
    assert withheld["absent"] - withheld["states"] == 7


def test_both_counts_are_of_one_moment(net):
    """In the midst of thousands of events, no hit is taken for one that its program has missed: the number never falls again."""
    program = Program.load("states")
    with program.attached(), Audit(program) as audit, converse(net, Conversation(), connections=300, concurrency=4):
        readings = np.array([audit.unseen() for _ in range(300)])
    assert (np.diff(readings, axis=0) >= 0).all()
