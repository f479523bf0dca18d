"""Mutants of the probe `states`: the judge has to catch each of them."""

import pytest
from support.mutants import caught, changed, judge_mutant

from lab.tcp import State
from lab.traffic.demo.conversation import Conversation
from lab.units import MS


@pytest.fixture
def judged(lab, tmp_path):
    """Return a function that changes the probe's source, records 50 connections and returns every check."""

    def judge(*changes):
        # The server lingers, so that a time stamp that is 2 ms late is still before the next one.
        conversation = Conversation(hold_ns=5 * MS, linger_ns=20 * MS)
        program, lossy = changed(tmp_path, "states", *changes), bool(changes)
        return judge_mutant(lab, program, "states", conversation, connections=50, concurrency=5, lossy=lossy)

    return judge


def test_unchanged_probe_passes(judged):
    """Without changes every check passes, so the failures below are caused by the changes."""
    assert caught(judged()) == set()


def test_clock_2_ms_late(judged):
    """Every time stamp is 2 ms late: durations are right, points in time are wrong."""
    wrong = caught(judged((r"bpf_ktime_get_ns\(\)", "(bpf_ktime_get_ns() + 2000000)")))
    assert "ESTABLISHED entered at" in wrong
    assert "FIN_WAIT1 entered at" in wrong


def test_2_ms_added_to_established(judged):
    """The reported time in ESTABLISHED is 2 ms too long."""
    late = r"\g<0>    if (oldstate == TCP_ESTABLISHED)\n        change->time_ns += 2000000;\n"
    wrong = caught(judged((r"^    change->skaddr = \(u64\)tcp;\n", late)))
    assert "time in ESTABLISHED" in wrong


def test_ports_swapped(judged):
    """Local and remote port are swapped: no connection has a socket of its flow."""
    swapped = "change->rport = from->lport;\n    change->lport = from->rport;"
    checks = judged((r"change->lport = from->lport;\n +change->rport = from->rport;", swapped))
    assert {check.measured for check in checks if not check.passed} == {""}
    assert caught(checks) == {"state sequence"}


def test_port_in_wrong_byte_order(judged):
    """S6: 9999 is reported as 3879."""
    assert "state sequence" in caught(judged((r"= from->lport;", "= bpf_htons(from->lport);")))


def test_every_50th_event_dropped(judged):
    """A missing event that is not counted as lost breaks the state sequence of its connection."""
    drop = r"\g<0>    int only = 0;\n    u64 *count = seen.lookup(&only);\n"
    drop += "    if (count && ++*count % 50 == 0)\n        return 0;\n"
    checks = judged(
        (r"^BPF_RINGBUF_OUTPUT.*$", r"\g<0>\nBPF_PERCPU_ARRAY(seen, u64, 1);"),
        (r"^static inline int report_change\(.*\)\n\{\n", drop),
    )
    broken = [check for check in checks if check.quantity == "state sequence" and not check.passed]
    assert len(broken) >= 5


def test_states_confused(judged):
    """CLOSE_WAIT is reported as LAST_ACK: the state sequence is not legal."""
    renamed = rf"\g<0>    if (newstate == {State.CLOSE_WAIT})\n        change->newstate = {State.LAST_ACK};\n"
    assert "state sequence" in caught(judged((r"^    change->newstate = newstate;\n", renamed)))


@pytest.mark.parametrize(
    "wrong", ["true", "is_held(tcp)"], ids=["the current task", "S9: the task that holds the lock"]
)
def test_bystander_as_owner(judged, wrong):
    """S7: the probe reports the current task as owner, also in softirq, or the task that holds the socket's lock."""
    assert "owners" in caught(judged((r"if \(is_held\(tcp\) && .*\)$", f"if ({wrong})")))
