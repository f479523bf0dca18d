"""Variants of the probe `flows` that are wrong on purpose: the judge must catch each."""

from support.flow_mutants import changed, counts_skbs

from lab import probes
from lab.traffic.demo.conversation import Conversation


def judged(lab, program):
    """Let a variant of the probe watch 10 connections; returns what the judge finds wrong."""
    observed = lab.converse(
        Conversation(size_bits=8 * 100_000), programs={"flows": program}, connections=10, lossy=True
    )
    return {check.quantity for check in probes.judge("flows", observed, lab.scenario) if not check.passed}


def test_the_right_probe_passes(lab, tmp_path):
    """The same doing with nothing changed has no wrong verdict."""
    assert judged(lab, changed(tmp_path)) == set()


def test_a_probe_that_counts_skbs(lab, tmp_path):
    """F1: one packet for each skb is caught by the host's own counter."""
    assert {"TCP packets sent", "packets"} <= judged(lab, counts_skbs(tmp_path))


def test_a_probe_that_forgets_headers(lab, tmp_path):
    """F1: the right number of packets, but only one header for all that a super-packet stands for, is caught."""
    once = [(r"to->bytes = ctx->len \+ .*;", "to->bytes = ctx->len;"), (r"if \(ctx->wire_len > to->bytes\)", "if (0)")]
    assert judged(lab, changed(tmp_path, *once)) == {"bytes of headers"}


def test_a_probe_that_counts_at_two_hooks(lab, tmp_path):
    """F2: packets that are counted at ingress and at egress alike are caught."""
    wrongs = judged(
        lab, changed(tmp_path, (r"return count\(ctx, EGRESS\);", "count(ctx, EGRESS); return count(ctx, EGRESS);"))
    )
    assert {"TCP packets sent", "what arrived"} <= wrongs


def test_a_probe_that_swaps_ports(lab, tmp_path):
    """F3: no connection is found under its own ports."""
    swapped = r"flow.sport = packet.dport;\n    flow.dport = packet.sport;"
    assert {"payload bytes", "SYN"} <= judged(lab, changed(tmp_path, (r"flow.sport = .*\n +flow.dport = .*;", swapped)))


def test_a_probe_that_takes_frames_for_payload(lab, tmp_path):
    """Bytes of frames for bytes of data: nothing is left for the headers, which is caught."""
    frames = (r"to->payload_bytes = .*;", "to->payload_bytes = to->bytes;")
    assert "bytes of headers" in judged(lab, changed(tmp_path, frames))


def test_a_probe_whose_clock_is_late(lab, tmp_path):
    """Stamps that are 2 s late are caught."""
    wrongs = judged(lab, changed(tmp_path, (r"bpf_ktime_get_ns\(\)", "(bpf_ktime_get_ns() + 2000000000)")))
    assert {"first packet left at", "last packet arrived at"} <= wrongs


def test_judge_of_nothing(lab):
    """A probe that has seen nothing of a connection has every count wrong."""
    observed = lab.converse(Conversation(), probes=["flows"])
    observed.recording.totals["flows"] = observed.recording.totals["flows"][:0]
    assert not any(
        check.passed for check in probes.judge("flows", observed, lab.scenario) if check.quantity in ("SYN", "packets")
    )
