"""The judge of the probe `retransmits`: it calls each wrong number wrong, and none of the right ones."""

import pytest
from support.made.observed import (
    AGAIN,
    TAPS,
    WIRE,
    changed,
    checks,
    intervals,
    observed,
    whatever_is_known,
    without,
    wrong,
)
from support.made.timelines import FLOW

from lab.packet import FIN, SYN

SEGMENTS, BYTES, NUMBERS = "segments sent again", "bytes sent again", "sequence numbers sent again"


@whatever_is_known
def test_what_is_true(packets, known):
    """A true recording has no wrong number, whatever else is known."""
    assert wrong(observed(packets, **known), "retransmits") == set()


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(
    ("fields", "by_hosts", "by_wire", "by_taps"),
    [
        ({"segments": 2}, {SEGMENTS}, {SEGMENTS}, {SEGMENTS}),
        ({"segments": 0}, {SEGMENTS}, {SEGMENTS}, {SEGMENTS}),
        ({"length": 299}, set(), {BYTES}, {BYTES}),
        ({"length": 301}, set(), {BYTES}, {BYTES}),
        ({"seq": 1}, set(), {NUMBERS}, {NUMBERS}),
        ({"flags": SYN}, set(), {"SYN sent again", BYTES}, {"SYN sent again", BYTES}),
        ({"flags": FIN}, set(), {"FIN sent again", BYTES}, {"FIN sent again", BYTES}),
        ({"lport": 1}, set(), {SEGMENTS, BYTES}, {BYTES}),
        ({"netns": 9}, {SEGMENTS}, {SEGMENTS, BYTES}, {SEGMENTS, BYTES}),
        ({"error": 1}, set(), {SEGMENTS, BYTES}, {BYTES}),
        ({"time_ns": 1}, set(), set(), {"segment sent again at"}),
        ({"time_ns": 9999}, set(), set(), {"segment sent again at"}),
    ],
)
def test_one_wrong_number(number, fields, by_hosts, by_wire, by_taps):
    """What each source knows is compared with it: the hosts' counters, the wire's log, the taps."""
    for known, quantities in (({}, by_hosts), (WIRE, by_wire), (TAPS, by_taps)):
        assert wrong(changed(observed(AGAIN, **known), "retransmits", number, **fields), "retransmits") == quantities


def test_one_that_was_missed():
    """Each host has sent one segment again."""
    assert wrong(without(observed(AGAIN), "retransmits", 0), "retransmits") == {SEGMENTS}
    assert wrong(without(observed(AGAIN, **WIRE), "retransmits", 1), "retransmits") == {SEGMENTS, BYTES}


def test_an_attempt_that_failed_may_be_in_the_kernels_counter():
    """The counter grows before the attempt fails: it allows for as many more, and for no more."""
    failed = changed(observed(AGAIN), "retransmits", 0, error=1)
    assert intervals(failed, "retransmits")["the client's host", SEGMENTS] == (0, 1)
    assert intervals(observed(AGAIN), "retransmits")["the client's host", SEGMENTS] == (1, 1)


def test_when_a_tap_has_seen_it():
    """A segment is reported after it has passed the tap, and before the softirq or the call that sent it was over."""
    times = [
        (it.subject, it.low, it.high)
        for it in checks(observed(AGAIN, **TAPS), "retransmits")
        if it.quantity == "segment sent again at"
    ]
    assert times == [(str(FLOW), 226, 400), (str(FLOW.reversed()), 331, 600)]
