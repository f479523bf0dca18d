"""The story of a wrong number: which connections and timestamps it has."""

import numpy as np
import pytest
from support.made.timelines import FLOW, REPLY, REQUEST, connection

from lab.observation import Observed
from lab.recording.recording import Recording
from lab.report import story
from lab.report.story import Story
from lab.results.writer import Results
from lab.tcp import address_bytes
from lab.testing.lab import Lab
from lab.timeline import Connection, Timeline
from lab.verdict import Bracket, Judge

JUDGE = Judge("s", "duration", "tc:egress")
OTHER = FLOW._replace(lport=4000)  # the beginning of the first one's port


def observed(events=None):
    """Return two connections of one client, the second without a call, and some events."""
    both = [connection(REQUEST, REPLY), Connection(Timeline("client", OTHER), None)]
    return Observed((11, 22), Recording(events or {}), both)


def wrong(subject, quantity="first SYN to first FIN"):
    """Return a check that failed."""
    return JUDGE.duration(subject, quantity, Bracket.early(500, 510), 900)


@pytest.mark.parametrize(
    ("subject", "calls"),
    [
        (f"{FLOW} at eth0 of the client", 9),
        ("192.0.2.1:40000 request 1", 9),
        (str(OTHER), 0),
        ("all connections", 9),
        ("the client's host", 9),
    ],
)
def test_the_connection_that_the_subject_names(subject, calls):
    """Its calls, each when it was called and when it was over; the first ones if the subject names none."""
    told = Story.of(wrong(subject), observed())
    assert len(told.stamps) == 2 * calls
    assert told.stamps == sorted(told.stamps)
    assert {stamp.host for stamp in told.stamps} == ({"client", "server"} if calls else set())


def test_the_events_of_the_probe_whose_number_it_is():
    """Events of other probes, connections and hosts are not told; fields that are known are words."""
    names = ("time_ns", "saddr", "daddr", "sport", "dport", "ifindex", "flags", "ingress", "payload_length")
    kind = np.dtype(list(zip(names, ("u8", "V16", "V16", "u2", "u2", "u4", "u1", "u1", "u4"), strict=True)))
    ends = [np.void(address_bytes(address)) for address in (FLOW.laddr, FLOW.raddr)]
    rows = np.array(
        [
            (110, *ends, FLOW.lport, FLOW.rport, 3, 0x12, 1, 0),
            (120, *ends, OTHER.lport, OTHER.rport, 3, 2, 1, 0),
            (130, *ends, FLOW.lport, FLOW.rport, 9, 2, 1, 0),
        ],
        kind,
    )
    seen = observed({"duration": rows, "states": rows})
    seen.recording.devices[3] = ("eth0", 22)
    told = Story.of(wrong(str(FLOW)), seen)
    assert [stamp[1:] for stamp in told.stamps if stamp.who.startswith("lab")] == [
        ("server", "lab duration", "ingress, SYN,ACK, 0 bytes")
    ]


def test_only_the_nearest(monkeypatch):
    """A long connection is told around the measured time, and the number of the other timestamps is kept."""
    monkeypatch.setattr(story, "_MOST_STAMPS", 4)
    told = Story.of(wrong(str(FLOW), "first FIN at"), observed())
    assert [stamp.time_ns for stamp in told.stamps] == [510, 600, 700, 710]
    assert told.left_out == 14


def test_the_first_wrong_numbers_are_kept(tmp_path):
    """A few of a recording, as they were; nothing of numbers that are right."""
    checks = [JUDGE.equal(str(FLOW), "seen", "once", "once"), *(wrong(f"{FLOW} {number}") for number in range(9))]
    tmp_path.joinpath(story.FILE).write_text(story.lines(checks, observed()))
    kept = story.read(tmp_path)
    assert list(kept) == checks[1:6]
    assert kept[checks[1]] == Story.of(checks[1], observed())
    assert story.lines(checks[:1], observed()) == ""
    assert story.read(tmp_path / "elsewhere") == {}


def test_a_scenario_keeps_the_stories(tmp_path):
    """The verdict on an observed conversation fails the scenario, and writes the story beside the check."""
    check = wrong(str(FLOW))
    with pytest.raises(AssertionError, match="1 of 1 checks are provably wrong"):
        Lab(None, lambda: Results(tmp_path), "s").check([check], observed())
    assert story.read(tmp_path) == {check: Story.of(check, observed())}
