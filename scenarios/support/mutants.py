"""Mutants: programs of the probes with changes in their source, to make them small or wrong on purpose."""

import re

from lab import probes
from lab.ebpf.program import Program
from lab.ebpf.source import text_of
from lab.observation import Observed
from lab.paths import SOURCES
from lab.recording.recorder import record
from lab.traffic.demo.process import converse


def altered(text, *changes):
    """Return a source text with each (pattern, replacement) applied. A pattern without a match is an error."""
    for pattern, replacement in changes:
        text, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        assert count, f"`{pattern}` does not match the source: adapt it, or the mutant is no mutant"
    return text


def changed(tmp_path, probe, *changes, defines=()):
    """Return the loaded program of a probe, with its source and headers changed."""
    source = tmp_path / f"wrong_{probe}.c"
    source.write_text(altered(text_of(SOURCES / f"{probe}.c"), *changes))
    return Program(source, defines)


def judge_mutant(lab, program, probe, conversation, *, connections, concurrency, devices=(), lossy=False):
    """Record conversations with a mutant of a probe; return every check of the probe's judge."""
    with record(programs={probe: program}, devices=devices, lossy=lossy) as recorder:
        with converse(lab.net, conversation, connections=connections, concurrency=concurrency) as demo:
            pass
        end_ns = lab.net.quiesce()
    observed = Observed(lab.net.inodes, recorder.recording, demo.connections, end_ns)
    return list(probes.judge(probe, observed, lab.scenario))


def caught(checks):
    """Return the quantities that failed a check."""
    return {check.quantity for check in checks if not check.passed}


def counts_skbs(tmp_path):
    """Return a mutant of `flows` that counts like many tools: one packet for each skb, with the skb's length."""
    changes = ((r"if \(ctx->gso_size\)", "if (0)"), (r"if \(ctx->wire_len > to->bytes\)", "if (0)"))
    return changed(tmp_path, "flows", *changes)


def totals_of(totals, host, direction):
    """Return the rows of `flows` for one host's interface and one direction."""
    return totals[(totals["ifindex"] == host.ifindex) & (totals["direction"] == direction)]
