"""Mutants of the probe `flows`: the judge must find each of them wrong."""

from support.mutants import changed, counts_skbs

from lab import probes
from lab.traffic.demo.conversation import Conversation


def judged(lab, program):
    """Return the quantities that the judge finds wrong when this program counts 10 connections."""
    observed = lab.converse(
        Conversation(size_bits=8 * 100_000), programs={"flows": program}, connections=10, lossy=True
    )
    return {check.quantity for check in probes.judge("flows", observed, lab.scenario) if not check.passed}


def test_the_right_probe_passes(lab, tmp_path):
    """The unchanged program has no wrong verdict."""
    assert judged(lab, changed(tmp_path, "flows")) == set()


def test_a_probe_that_counts_skbs(lab, tmp_path):
    """F1: a program that counts skbs disagrees with the host's counter of sent segments."""
    assert {"TCP packets sent", "packets"} <= judged(lab, counts_skbs(tmp_path))


def test_a_probe_that_forgets_headers(lab, tmp_path):
    """F1: a program that counts the headers of a super-packet once has too few bytes of headers."""
    once = [(r"to->bytes = ctx->len - .*;", "to->bytes = ctx->len;"), (r"if \(ctx->wire_len > to->bytes\)", "if (0)")]
    assert judged(lab, changed(tmp_path, "flows", *once)) == {"bytes of headers"}


def test_a_probe_that_counts_at_two_hooks(lab, tmp_path):
    """F2: a program that counts each packet twice disagrees with the host's counter and the other host."""
    wrongs = judged(
        lab,
        changed(tmp_path, "flows", (r"return count\(ctx, EGRESS\);", "count(ctx, EGRESS); return count(ctx, EGRESS);")),
    )
    assert {"TCP packets sent", "what arrived"} <= wrongs


def test_a_probe_that_swaps_ports(lab, tmp_path):
    """F3: with swapped ports no connection is found."""
    swapped = r"flow.sport = packet->dport;\n    flow.dport = packet->sport;"
    assert {"payload bytes", "SYN"} <= judged(
        lab, changed(tmp_path, "flows", (r"flow.sport = .*\n +flow.dport = .*;", swapped))
    )


def test_a_probe_that_takes_frames_for_payload(lab, tmp_path):
    """With the bytes of frames as payload no bytes are left for the headers."""
    frames = (r"to->payload_bytes = .*;", "to->payload_bytes = to->bytes;")
    assert "bytes of headers" in judged(lab, changed(tmp_path, "flows", frames))


def test_a_probe_whose_clock_is_late(lab, tmp_path):
    """Times that are 2 s late are outside their brackets."""
    wrongs = judged(lab, changed(tmp_path, "flows", (r"bpf_ktime_get_ns\(\)", "(bpf_ktime_get_ns() + 2000000000)")))
    assert {"first packet left at", "last packet arrived at"} <= wrongs


def test_judge_of_nothing(lab):
    """A probe without any rows has every count wrong."""
    observed = lab.converse(Conversation(), probes=["flows"])
    observed.recording.totals["flows"] = observed.recording.totals["flows"][:0]
    assert not any(
        check.passed for check in probes.judge("flows", observed, lab.scenario) if check.quantity in ("SYN", "packets")
    )
