"""The taps at the hosts' interfaces: each frame once, and mutants that only they can catch."""

import os
import time
from dataclasses import replace

import numpy as np
import pytest
from support.mutants import caught, changed

from lab import clock, probes
from lab.network import segment_parser, taps
from lab.network.conditions import Conditions
from lab.network.relay import Relay
from lab.network.topology import topology
from lab.observation import observe
from lab.traffic.demo.conversation import Conversation
from lab.units import MS


def test_every_frame_is_seen_at_both_hosts(net):
    """What leaves one host comes to the other, later; the ticks of all CPUs go on."""
    began_ns = time.monotonic_ns()
    with taps.taps(net.devices) as log, observe(net, Conversation(exchanges=5), connections=3):
        pass
    ended_ns = time.monotonic_ns()
    assert log.faults == {}
    frames = log.frames
    parsed = segment_parser.parse(frames["head"], frames["length"])
    frames = frames[parsed["frame"]]
    assert (
        (began_ns < frames["low_ns"]) & (frames["low_ns"] <= frames["high_ns"]) & (frames["high_ns"] < ended_ns)
    ).all()
    for sender in (0, 1):
        left = frames[(frames["tap"] == sender) & (frames["outgoing"] == 1)]
        came = frames[(frames["tap"] == 1 - sender) & (frames["outgoing"] == 0)]
        order = [np.lexsort((some["low_ns"], some["head"].view("V128").reshape(-1))) for some in (left, came)]
        assert len(left) > 0
        assert (left["head"][order[0]] == came["head"][order[1]]).all()
        assert (left["low_ns"][order[0]] < came["high_ns"][order[1]]).all()
    assert len(log.ticks) > 0
    assert all((np.diff(ticks) > 0).all() for ticks in log.ticks)
    if clock.GUEST not in os.environ:  # there are no ticks in guests
        assert all(ticks[-1] > frames["high_ns"].max() for ticks in log.ticks)


def test_a_full_log_proves_nothing(net, monkeypatch):
    """Frames without room are counted, and then nothing is narrowed by the taps."""
    monkeypatch.setattr(taps, "_FRAMES", 10)
    with taps.taps(net.devices) as log, observe(net, Conversation(exchanges=5)):
        pass
    assert log.faults["frames without room in the log"] > 0
    with observe(net, Conversation(exchanges=5)) as observed:
        pass
    assert observed.taps is None
    assert observed.seen(observed.connections[0]) == (None, None)


@pytest.mark.parametrize(
    ("probe", "quantity"),
    [
        ("states", "SYN_SENT entered at"),
        ("duration", "first SYN at"),
        ("flows", "first packet left at"),
        ("packets", "SYN arrives at"),
    ],
)
def test_a_late_clock_is_noticed(tmp_path, probe, quantity):
    """Numbers that are 1 ms late are possible by the applications' calls, since a connect() takes 4 ms. The taps know better."""
    late = changed(tmp_path, probe, (r"bpf_ktime_get_ns\(\)", "(bpf_ktime_get_ns() + 1000000)"))
    with topology(Relay()) as net:
        net.conditions(*[Conditions(delay_ns=2 * MS)] * 2)
        with observe(net, Conversation(hold_ns=5 * MS), programs={probe: late}, connections=5) as observed:
            pass
    without = replace(observed, taps=None, wire=None)
    assert quantity not in caught(probes.judge(probe, without, "late"))
    assert quantity in caught(probes.judge(probe, observed, "late"))
