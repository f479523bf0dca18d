"""The judge of the probe `drops`: it calls each wrong row wrong, and none of the right ones."""

from dataclasses import replace

import numpy as np
import pytest
from support.made.observed import CLIENT, PACKETS, SERVER, SIZE, dropped, observed, refused, wrong

from lab.packet import ACK, SYN
from lab.probes.drops import judge

WORK_DONE, UNWANTED, LOST = 1, 2, 3
OPENING, ANSWER, REQUEST, REPLY = PACKETS[0], PACKETS[1], PACKETS[3], PACKETS[5]
NEVER_CAME, GIVEN_UP, UNANSWERED = "packets given up that never came", "bytes given up", "SYNs without a socket"


@pytest.fixture(autouse=True)
def _reasons(monkeypatch):
    """Three reasons of the kernel: a packet has done its work, finds no socket, is lost."""
    of = {"NO_SOCKET": [UNWANTED]}
    monkeypatch.setattr(judge, "numbers", lambda names: of.get(next(iter(names)), [WORK_DONE]))


def judged(whole, *rows):
    """Return what is wrong with these rows."""
    recording = replace(whole.recording, events=whole.recording.events | {"drops": np.concatenate(rows or [dropped()])})
    return wrong(replace(whole, recording=recording), "drops")


@pytest.mark.parametrize("taps", [False, True])
def test_what_is_true(taps):
    """Rows of packets that came, of both hosts, up to as many bytes as came."""
    rows = [dropped(REQUEST, SERVER, LOST), dropped(REPLY, CLIENT, LOST)]
    assert judged(observed(taps=taps)) == judged(observed(taps=taps), *rows) == set()


@pytest.mark.parametrize(
    ("packet", "netns", "fields", "quantities"),
    [
        (REQUEST, SERVER, {"seq": 1}, {NEVER_CAME}),
        (REPLY, CLIENT, {"seq": 1}, {NEVER_CAME}),
        (REQUEST, SERVER, {"length": SIZE + 41}, {GIVEN_UP}),
        (REPLY, CLIENT, {"length": SIZE + 41}, {GIVEN_UP}),
        (REPLY, CLIENT, {"header": 39}, {GIVEN_UP}),
        (REPLY, CLIENT, {"header": 39, "reason": WORK_DONE}, set()),
        (REPLY, SERVER, {"seq": 1, "header": 0}, set()),  # of another host: nothing is known of it
        (REPLY, CLIENT, {"length": 10}, set()),  # shorter than its header: no bytes
    ],
)
def test_one_wrong_number(packet, netns, fields, quantities):
    """Only what came can be given up."""
    assert judged(observed(taps=True), dropped(packet, netns, **{"reason": LOST} | fields)) == quantities
    assert judged(observed(), dropped(packet, netns, **{"reason": LOST} | fields)) == set()


def test_bytes_add_up():
    """Two packets cannot give up more than came; one that has done its work gives up nothing."""
    row = dropped(REQUEST, SERVER, LOST)
    assert judged(observed(taps=True), row, row) == {GIVEN_UP}
    assert judged(observed(taps=True), row, dropped(REQUEST, SERVER, WORK_DONE)) == set()


@pytest.mark.parametrize(
    ("rows", "quantities"),
    [
        ([dropped(OPENING, SERVER, UNWANTED)], set()),
        ([], {UNANSWERED}),
        ([dropped(OPENING, SERVER, UNWANTED)] * 2, {UNANSWERED}),
        ([dropped(OPENING, CLIENT, UNWANTED)], {UNANSWERED}),
        ([dropped(OPENING, SERVER, LOST)], {UNANSWERED}),
        ([dropped(OPENING, SERVER, UNWANTED, flags=SYN | ACK)], {UNANSWERED}),
        ([dropped(OPENING, SERVER, UNWANTED, dport=1)], {UNANSWERED}),
        ([dropped(OPENING, SERVER, UNWANTED, sport=1)], set()),  # a refused client may not know its port
    ],
)
def test_a_refused_connection(rows, quantities):
    """Its SYN found no socket at the server, once."""
    assert judged(refused(), *rows) == quantities


def test_a_syn_of_an_accepted_connection():
    """Only refused connections have one without a socket."""
    assert judged(observed(), dropped(OPENING, SERVER, UNWANTED)) == set()
