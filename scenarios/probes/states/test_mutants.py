"""Probes that are wrong on purpose. A suite that does not catch them proves nothing about the right one."""

import pytest
from support.mutants import caught, changed

from lab import probes
from lab.ebpf.recorder import record
from lab.observation import Observed
from lab.tcp import State
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse
from lab.units import MS


@pytest.fixture
def judged(lab, tmp_path):
    """Change the probe's source, let it watch 50 connections, and return the verdicts on it."""

    def judge(*changes):
        with record(programs={"states": changed(tmp_path, "states", *changes)}, lossy=bool(changes)) as recorder:
            # The server lingers, so that a stamp that is 2 ms late is not also behind the next one.
            conversation = Conversation(hold_ns=5 * MS, linger_ns=20 * MS)
            with converse(lab.net, conversation, connections=50, concurrency=5) as demo:
                pass
            end_ns = lab.net.quiesce()
        observed = Observed(lab.net.inodes, recorder.recording, demo.connections, end_ns)
        return list(probes.judge("states", observed, lab.scenario))

    return judge


def test_the_right_probe_passes(judged):
    """The same doing with nothing changed has no wrong verdict: what is caught below is caught for its own sake."""
    assert caught(judged()) == set()


def test_a_probe_whose_clock_is_2_ms_late(judged):
    """Every time stamp is 2 ms late: durations are right, points in time are not."""
    wrong = caught(judged((r"bpf_ktime_get_ns\(\)", "(bpf_ktime_get_ns() + 2000000)")))
    assert "ESTABLISHED entered at" in wrong
    assert "FIN_WAIT1 entered at" in wrong


def test_a_probe_that_adds_2_ms(judged):
    """The time in ESTABLISHED is reported 2 ms longer than it was."""
    late = r"\g<0>    if (oldstate == TCP_ESTABLISHED)\n        change->time_ns += 2000000;\n"
    wrong = caught(judged((r"^    change->skaddr = \(u64\)tcp;\n", late)))
    assert "time in ESTABLISHED" in wrong


def test_a_probe_that_swaps_ports(judged):
    """The local port is reported as the remote one and the other way round: no connection is found under its flow."""
    swapped = "change->rport = from->lport;\n    change->lport = from->rport;"
    checks = judged((r"change->lport = from->lport;\n +change->rport = from->rport;", swapped))
    assert {check.measured for check in checks if not check.passed} == {""}
    assert caught(checks) == {"state sequence"}


def test_a_probe_with_ports_in_the_wrong_byte_order(judged):
    """S6: 9999 that comes out as 3879 is caught."""
    assert "state sequence" in caught(judged((r"= from->lport;", "= bpf_htons(from->lport);")))


def test_a_probe_that_drops_every_50th_event(judged):
    """Events that are missing without a word break the sequence of their connection."""
    drop = r"\g<0>    int only = 0;\n    u64 *count = seen.lookup(&only);\n"
    drop += "    if (count && ++*count % 50 == 0)\n        return 0;\n"
    checks = judged(
        (r"^BPF_RINGBUF_OUTPUT.*$", r"\g<0>\nBPF_PERCPU_ARRAY(seen, u64, 1);"),
        (r"^static inline int report_change\(.*\)\n\{\n", drop),
    )
    broken = [check for check in checks if check.quantity == "state sequence" and not check.passed]
    assert len(broken) >= 5


def test_a_probe_that_confuses_states(judged):
    """A CLOSE_WAIT reported as LAST_ACK is no legal path."""
    renamed = rf"\g<0>    if (newstate == {State.CLOSE_WAIT})\n        change->newstate = {State.LAST_ACK};\n"
    assert "state sequence" in caught(judged((r"^    change->newstate = newstate;\n", renamed)))


def test_a_probe_that_names_a_bystander(judged):
    """S7: a probe that reports whatever task is current is caught."""
    assert "owner" in caught(judged((r"if \(is_held\(tcp\)\)", "if (true)")))
