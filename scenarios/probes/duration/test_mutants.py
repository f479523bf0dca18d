"""Mutants of the probe `duration` and of its measure: the judge has to catch each of them."""

import numpy as np
import pytest
from support.mutants import caught, changed, judge_mutant

from lab import probes
from lab.arrays import UNKNOWN
from lab.probes.duration.measure import lifetimes
from lab.traffic.demo.conversation import Conversation
from lab.units import MS


@pytest.fixture
def judged(lab, tmp_path):
    """Return a function that changes the probe's source, records 50 connections and returns every check."""

    def judge(*changes):
        program = changed(tmp_path, "duration", *changes)
        conversation, devices = Conversation(hold_ns=5 * MS, linger_ns=20 * MS), lab.net.devices
        return judge_mutant(lab, program, "duration", conversation, connections=50, concurrency=5, devices=devices)

    return judge


def test_unchanged_probe_passes(judged):
    """Without changes every check passes, so the failures below are caused by the changes."""
    assert caught(judged()) == set()


def test_clock_2_ms_early(judged):
    """Every time stamp is 2 ms early: durations are right, points in time are wrong."""
    wrong = caught(judged((r"bpf_ktime_get_ns\(\)", "(bpf_ktime_get_ns() - 2000000)")))
    assert "first FIN or RST at" in wrong


def test_fins_10_ms_late(judged):
    """The time stamps of FINs are 10 ms late."""
    late = r"\g<0>    if (packet->flags & FIN)\n        segment->time_ns += 10000000;\n"
    wrong = caught(judged((r"^    segment->seq = packet->seq;\n", late)))
    assert {"first SYN to first FIN or RST", "first FIN or RST at"} <= wrong


def test_ports_swapped(judged):
    """Source and destination port are swapped."""
    swapped = "segment->dport = packet->sport;\n    segment->sport = packet->dport;"
    checks = judged((r"segment->sport = packet->sport;\n +segment->dport = packet->dport;", swapped))
    assert caught(checks) == {"seen"}


def test_port_in_wrong_byte_order(judged):
    """S6: 9999 is reported as 3879."""
    assert "seen" in caught(judged((r"= packet->dport;", "= bpf_htons(packet->dport);")))


def test_no_ingress(judged):
    """D6: half of the segments are missing: there is no SYN-ACK at the client and no SYN at the server."""
    wrong = caught(judged((r"return report_segment\(ctx, 1\);", "return TC_ACT_UNSPEC;")))
    assert {"only from", "closed first by", "first SYN to SYN-ACK"} <= wrong


def test_every_50th_event_dropped(judged):
    """Any missing event that is not counted as lost is caught."""
    drop = r"    int only = 0;\n    u64 *count = seen.lookup(&only);\n"
    drop += r"    if (count && __sync_fetch_and_add(count, 1) % 50 == 0)\n        return TC_ACT_UNSPEC;\n\g<0>"
    checks = judged(
        (r"^BPF_RINGBUF_OUTPUT.*$", r"\g<0>\nBPF_ARRAY(seen, u64, 1);"),
        (r"^    segment = reserve", drop),
    )
    assert len({check.subject for check in checks if not check.passed}) >= 5


def test_each_segment_counted_twice(judged):
    """A segment that is reported twice in the same direction looks like a retransmission."""
    twice = r"\g<0>\n    report_segment(ctx, 0);"
    assert "SYN retransmissions" in caught(judged((r"^ON_TC\(egress\)\n\{", twice)))


@pytest.fixture
def judged_as(monkeypatch, lab):
    """Return a function that changes the rows of a correct recording and returns the quantities that failed a check."""

    def judge(observed, change):
        def wrong(*arguments, **keywords):
            rows = lifetimes(*arguments, **keywords)
            change(rows)
            return rows

        monkeypatch.setattr("lab.probes.duration.judge.lifetimes", wrong)
        return caught(probes.judge("duration", observed, lab.scenario))

    return judge


def test_measured_from_the_syn_ack(lost_syn, judged_as):
    """D1: the time of the handshake is missing; this is seconds if the first SYN was lost."""

    def change(rows):
        rows["start_ns"] += rows["synack_ns"]
        rows["duration_ns"] -= rows["synack_ns"]

    observed, _ = lost_syn
    assert {"first SYN at", "first SYN to first FIN or RST"} <= judged_as(observed, change)


def test_measured_from_the_last_syn(lost_syn, judged_as):
    """D1: each retransmitted SYN overwrites the start."""

    def change(rows):
        rows["duration_ns"] -= rows["last_syn_ns"] - rows["start_ns"]

    observed, _ = lost_syn
    assert judged_as(observed, change) == {"first SYN to first FIN or RST"}


def test_measured_to_the_second_fin(lab, judged_as):
    """D3: the duration ends at the second FIN instead of the first."""

    def change(rows):
        rows["duration_ns"] = rows["second_fin_ns"]

    observed = lab.converse(Conversation(linger_ns=30 * MS), probes=("duration",))
    assert judged_as(observed, change) == {"first SYN to first FIN or RST"}


def test_negative_duration(lab, judged_as):
    """D4: time stamps are subtracted in the wrong order; in unsigned 64-bit arithmetic the result is near 2^64."""

    def change(rows):
        rows["duration_ns"] = np.int64(UNKNOWN) - rows["duration_ns"]

    observed = lab.converse(Conversation(), probes=("duration",))
    assert judged_as(observed, change) == {"first SYN to first FIN or RST"}


def test_wrong_side_closed_first(lab, judged_as):
    """The passive side of the close is reported as the active side."""

    def change(rows):
        rows["closed_first"] = 3 - rows["closed_first"]

    observed = lab.converse(Conversation(linger_ns=10 * MS), probes=("duration",))
    assert judged_as(observed, change) == {"closed first by"}


def test_rst_reported_as_fin(lab, judged_as):
    """D2: a RST is reported as a FIN."""

    def change(rows):
        rows["ended"] = 1

    observed = lab.converse(Conversation(how="rst"), probes=("duration",))
    assert judged_as(observed, change) == {"ended by"}
