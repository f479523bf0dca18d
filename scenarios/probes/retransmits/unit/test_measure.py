"""How often a segment has been sent again, from events."""

import numpy as np
import pytest

from lab.packet import FIN, SYN
from lab.probes.retransmits.measure import MOST_KNOWN, Counter, kind_of, sent
from lab.tcp import State

EVENT = np.dtype(
    [
        ("time_ns", "u8"),
        ("laddr", "u1", (16,)),
        ("raddr", "u1", (16,)),
        ("netns", "u4"),
        ("seq", "u4"),
        ("length", "u4"),
        ("segments", "u4"),
        ("error", "u4"),
        ("lport", "u2"),
        ("rport", "u2"),
        ("state", "u1"),
        ("flags", "u1"),
    ]
)


def events(*rows):
    made = np.zeros(len(rows), EVENT)
    for event, row in zip(made, rows, strict=True):
        for name, value in ({"length": 100, "segments": 1, "state": State.ESTABLISHED} | row).items():
            event[name] = value
    return made


def test_each_segment_has_its_own_number():
    """By its first sequence number, its connection and its network namespace."""
    rows = Counter().rows(
        events({"seq": 1}, {"seq": 2}, {"seq": 1}, {"seq": 1, "lport": 5}, {"seq": 1, "netns": 7}, {"seq": 1})
    )
    assert rows["times"].tolist() == [1, 1, 2, 1, 1, 3]


def test_batches_do_not_matter():
    """The number goes on."""
    counter = Counter()
    assert [int(counter.rows(events({"seq": 1}))["times"][0]) for _ in range(3)] == [1, 2, 3]


def test_a_failed_attempt_does_not_count():
    """T1: it has the number of the attempt before."""
    rows = Counter().rows(events({"seq": 1, "error": 113}, {"seq": 1}, {"seq": 1, "error": 113}))
    assert rows["times"].tolist() == [0, 1, 1]
    assert len(sent(rows)) == 1


def test_the_oldest_are_forgotten():
    """A bounded number is remembered: those that were sent last."""
    counter = Counter()
    first = events({"seq": 0})
    counter.rows(first)
    many = np.zeros(MOST_KNOWN, EVENT)
    many["seq"] = np.arange(1, MOST_KNOWN + 1)
    counter.rows(many)
    assert counter.rows(first)["times"].tolist() == [1]


@pytest.mark.parametrize(
    ("row", "kind", "size"),
    [
        ({"flags": SYN, "length": 1, "state": State.SYN_SENT}, "SYN", 0),
        ({"flags": SYN, "length": 101, "state": State.SYN_SENT}, "data SYN", 100),
        ({"flags": SYN, "length": 1, "state": State.NEW_SYN_RECV}, "SYN-ACK", 0),
        ({"flags": FIN, "length": 1, "state": State.FIN_WAIT1}, "FIN", 0),
        ({"flags": FIN, "length": 11, "state": State.LAST_ACK}, "data FIN", 10),
        ({"length": 10}, "data", 10),
    ],
)
def test_kinds(row, kind, size):
    """SYN and FIN take one number each."""
    (found,) = Counter().rows(events(row))
    assert (kind_of(found), found["size"]) == (kind, size)
