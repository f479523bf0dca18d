"""Probes of durations that are wrong on purpose: what `duration`'s judge does not catch, it does not judge."""

import numpy as np
import pytest
from support.mutants import caught, changed

from lab import probes
from lab.arrays import UNKNOWN
from lab.ebpf.recorder import record
from lab.observation import Observed
from lab.probes.duration.measure import lifetimes
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse
from lab.units import MS


@pytest.fixture
def judged(lab, tmp_path):
    """Change the probe's source, let it watch 50 connections, and return the verdicts on it."""

    def judge(*changes):
        with record(
            programs={"duration": changed(tmp_path, "duration", *changes)}, devices=lab.net.devices
        ) as recorder:
            conversation = Conversation(hold_ns=5 * MS, linger_ns=20 * MS)
            with converse(lab.net, conversation, connections=50, concurrency=5) as demo:
                pass
            end_ns = lab.net.quiesce()
        observed = Observed(lab.net.inodes, recorder.recording, demo.connections, end_ns)
        return list(probes.judge("duration", observed, lab.scenario))

    return judge


def test_the_right_probe_passes(judged):
    """The same doing with nothing changed has no wrong verdict: what is caught below is caught for its own sake."""
    assert caught(judged()) == set()


def test_a_probe_whose_clock_is_2_ms_early(judged):
    """Durations are right, points in time are not."""
    wrong = caught(judged((r"bpf_ktime_get_ns\(\)", "(bpf_ktime_get_ns() - 2000000)")))
    assert "first FIN or RST at" in wrong


def test_a_probe_that_adds_10_ms(judged):
    """FINs are stamped 10 ms late."""
    late = r"\g<0>    if (packet.flags & FIN)\n        segment->time_ns += 10000000;\n"
    wrong = caught(judged((r"^    segment->seq = packet.seq;\n", late)))
    assert {"first SYN to first FIN or RST", "first FIN or RST at"} <= wrong


def test_a_probe_that_swaps_ports(judged):
    """The sender's port is reported as the receiver's."""
    swapped = "segment->dport = packet.sport;\n    segment->sport = packet.dport;"
    checks = judged((r"segment->sport = packet.sport;\n +segment->dport = packet.dport;", swapped))
    assert caught(checks) == {"seen"}


def test_a_probe_with_ports_in_the_wrong_byte_order(judged):
    """S6: 9999 that comes out as 3879 is caught."""
    assert "seen" in caught(judged((r"= packet.dport;", "= bpf_htons(packet.dport);")))


def test_a_probe_that_sees_no_ingress(judged):
    """Half of the segments are missing: no SYN-ACK at the client, no SYN at the server."""
    wrong = caught(judged((r"return report_segment\(ctx, 1\);", "return TC_ACT_UNSPEC;")))
    assert {"ended by", "first SYN at", "first SYN to SYN-ACK"} <= wrong


def test_a_probe_that_drops_every_50th_event(judged):
    """Events that are missing without a word are caught, whichever they are."""
    drop = r"    int only = 0;\n    u64 *count = seen.lookup(&only);\n"
    drop += r"    if (count && __sync_fetch_and_add(count, 1) % 50 == 0)\n        return TC_ACT_UNSPEC;\n\g<0>"
    checks = judged(
        (r"^BPF_RINGBUF_OUTPUT.*$", r"\g<0>\nBPF_ARRAY(seen, u64, 1);"),
        (r"^    segment = events.ringbuf_reserve", drop),
    )
    assert len({check.subject for check in checks if not check.passed}) >= 5


def test_a_probe_that_counts_each_segment_twice(judged):
    """Each segment reported at egress and again in the same direction looks like a retransmission."""
    twice = r"\g<0>\n    report_segment(ctx, 0);"
    assert "SYN retransmissions" in caught(judged((r"^ON_TC\(egress\)\n\{", twice)))


@pytest.fixture
def judged_as(monkeypatch, lab):
    """Judge rows that a wrong measure has made of a right recording."""

    def judge(observed, change):
        def wrong(*arguments, **keywords):
            rows = lifetimes(*arguments, **keywords)
            change(rows)
            return rows

        monkeypatch.setattr("lab.probes.duration.judge.lifetimes", wrong)
        return caught(probes.judge("duration", observed, lab.scenario))

    return judge


def test_a_measure_that_starts_at_the_syn_ack(lost_syn, judged_as):
    """D1: the handshake is missing: with a lost first SYN, seconds."""

    def change(rows):
        rows["start_ns"] += rows["synack_ns"]
        rows["duration_ns"] -= rows["synack_ns"]

    observed, _ = lost_syn
    assert {"first SYN at", "first SYN to first FIN or RST"} <= judged_as(observed, change)


def test_a_measure_that_starts_at_the_last_syn(lost_syn, judged_as):
    """D1: a start that each retransmission overwrites."""

    def change(rows):
        rows["duration_ns"] -= rows["last_syn_ns"] - rows["start_ns"]

    observed, _ = lost_syn
    assert judged_as(observed, change) == {"first SYN to first FIN or RST"}


def test_a_measure_that_ends_at_the_second_fin(lab, judged_as):
    """D3: the last FIN taken for the end."""

    def change(rows):
        rows["duration_ns"] = rows["second_fin_ns"]

    observed = lab.converse(Conversation(linger_ns=30 * MS), probes=("duration",))
    assert judged_as(observed, change) == {"first SYN to first FIN or RST"}


def test_a_measure_that_subtracts_unsigned(lab, judged_as):
    """D4: what a subtraction of unordered stamps gives in 64 bits without a sign, and its relative below zero."""

    def change(rows):
        rows["duration_ns"] = np.int64(UNKNOWN) - rows["duration_ns"]

    observed = lab.converse(Conversation(), probes=("duration",))
    assert judged_as(observed, change) == {"first SYN to first FIN or RST"}


def test_a_measure_that_mistakes_who_closed(lab, judged_as):
    """The passive side taken for the active one."""

    def change(rows):
        rows["closed_first"] = 3 - rows["closed_first"]

    observed = lab.converse(Conversation(linger_ns=10 * MS), probes=("duration",))
    assert judged_as(observed, change) == {"closed first by"}


def test_a_measure_that_calls_a_reset_a_close(lab, judged_as):
    """D2: a RST reported as a FIN."""

    def change(rows):
        rows["ended"] = 1

    observed = lab.converse(Conversation(how="rst"), probes=("duration",))
    assert judged_as(observed, change) == {"ended by"}
