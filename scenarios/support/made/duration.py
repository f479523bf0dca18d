"""Segments of the probe `duration` made by hand, and random traffic together with the truth about it.

What lives here: the events of stories, stories whose truth is known, and a hypothesis strategy that interleaves whole connections as
an interface would see them. What does not: any expectation of a single test.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from lab.arrays import UNKNOWN
from lab.packet import ACK
from lab.tcp import Ended, Flow, Side, address_text
from lab.traffic.crafted import script
from support.made.states import packed

SEGMENT = np.dtype(
    [
        ("time_ns", "u8"),
        ("saddr", "u1", 16),
        ("daddr", "u1", 16),
        ("seq", "u4"),
        ("ack", "u4"),
        ("payload_length", "u4"),
        ("ifindex", "u4"),
        ("sport", "u2"),
        ("dport", "u2"),
        ("vlan", "u2"),
        ("inner_vlan", "u2"),
        ("flags", "u1"),
        ("ingress", "u1"),
    ]
)
"""As the probe writes it."""

FLOW = Flow("192.0.2.1", 40000, "192.0.2.2", 80)
_RANGE = 1 << 32
_APART = 1_000_000  # a host's initial sequence numbers for one flow: RFC 9293 (3.4.1) lets none return so soon


def segment(time_ns: int, kind: str, flow: Flow = FLOW, seq: int = 0, ack: int = 0, **fields) -> np.ndarray:
    """One event, sent by the flow's own side; `kind` is S, SA, F, R or RA."""
    flags = script.FLAGS[kind]
    told = script.Segment(True, flags, seq % _RANGE, ack % _RANGE if flags & ACK else 0)  # noqa: FBT003 (who, of a tuple)
    return _event(time_ns, told, flow, fields)


def _event(time_ns, told, flow, fields):
    row = np.zeros((), SEGMENT)
    known = {
        "time_ns": time_ns,
        "saddr": packed(flow.laddr),
        "daddr": packed(flow.raddr),
        "sport": flow.lport,
        "dport": flow.rport,
        "seq": told.seq,
        "ack": told.ack,
        "payload_length": told.payload,
        "ifindex": 2,
        "flags": told.flags,
    }
    for name, value in (known | fields).items():
        row[name] = value
    return row


def segments(*rows: np.ndarray) -> np.ndarray:
    """Return the events as one array, in the order given."""
    array = np.zeros(len(rows), SEGMENT)
    for index, row in enumerate(rows):
        array[index] = row
    return array


def exchange(story: str, start_ns: int = 10, isns: tuple[int, int] = (1000, 5000), flow: Flow = FLOW, **fields):
    """Return the segments of a story (`lab.traffic.crafted.script`), 10 ns after each other, the first at `start_ns`."""
    return [
        _event(start_ns + 10 * step, told, flow if told.by_client else flow.reversed(), fields)
        for step, told in enumerate(script.segments(story, isns))
    ]


class Story(NamedTuple):
    """A story and the truth about it: how it ended when nothing more comes, and which of its segments did what."""

    words: str
    ended: Ended
    closed_first: Side = Side.NOBODY
    end: int | None = None
    second_fin: int | None = None
    syns_again: int = 0
    fins_again: int = 0
    partial: bool = False
    only_from: Side = Side.NOBODY


C, S = Side.CLIENT, Side.SERVER
WHOLE = [
    Story("cS sSA cF sF", Ended.FIN, C, 2, 3),
    Story("cS sSA sF cF", Ended.FIN, S, 2, 3),
    Story("cS cS sSA sSA sF cF", Ended.FIN, S, 4, 5, syns_again=1),
    Story("cS sSA cF cF sF cF sF", Ended.FIN, C, 2, 4, fins_again=1),
    Story("cS sRA0", Ended.REFUSED, S, 1),
    Story("cS cS sRA0 sRA0", Ended.REFUSED, S, 2, syns_again=1),
    Story("cS sRA0 cS sRA0", Ended.REFUSED, S, 1),  # the server's view of a retransmission that crosses
    Story("cS sSA cS sRA0", Ended.REFUSED, S, 3, syns_again=1),  # the listener has gone meanwhile
    Story("cS sSA cRA", Ended.RST, C, 2),
    Story("cS sSA sRA", Ended.RST, S, 2),  # as after an overflow of the accept queue
    Story("cS sSA cR", Ended.RST, C, 2),
    Story("cS sSA sR", Ended.RST, S, 2),  # as from a firewall that rejects a segment
    Story("cS sSA sF cRA", Ended.RST, S, 2),
    Story("cS sSA cF sR sF", Ended.RST, C, 2),  # what comes behind a RST is nothing
    Story("cS sSA cF sF cR", Ended.FIN, C, 2, 3),
    Story("cS sSA cF sF sRA", Ended.FIN, C, 2, 3),
    Story("cS sS cSA sSA cF sF", Ended.FIN, C, 4, 5),  # simultaneous open
    Story("cS sS cS sS cSA sSA sF cF", Ended.FIN, S, 6, 7, syns_again=1),
    Story("cS sS cSA sR", Ended.RST, S, 3),
    Story("cS sS cSA cRA", Ended.RST, C, 3),
    Story("cS cR cS sSA cF sF", Ended.FIN, C, 4, 5, syns_again=1),  # a RST that answers something older
    Story("cS sR sSA cF sF", Ended.FIN, C, 3, 4),
    Story("cS sF- sSA cF sF", Ended.FIN, C, 3, 4),  # the last FIN of an earlier connection
    Story("cS+ sSA+ cF sF", Ended.FIN, C, 2, 3),  # TCP Fast Open
    Story("cS+ sSA cF sF", Ended.FIN, C, 2, 3),
    Story("cS sSA cS sSA' cF sF", Ended.FIN, C, 4, 5, syns_again=1),  # SYN cookies
    Story("cS", Ended.TIMEOUT),
    Story("cS cS cS", Ended.TIMEOUT, syns_again=2),
    Story("cS sSA", Ended.OPEN),
    Story("cS sSA cF", Ended.OPEN, C, 2),
]
ONLY_CLIENT = [
    Story("cS cF", Ended.FIN, end=1, only_from=C),
    Story("cS cS cF cF", Ended.FIN, end=2, syns_again=1, only_from=C),
    Story("cS cF cRA", Ended.FIN, end=1, only_from=C),
    Story("cS cF sRA0", Ended.FIN, end=1, only_from=C),
    Story("cS cRA", Ended.RST, end=1, only_from=C),
    Story("cS cR cF", Ended.FIN, end=2, only_from=C),  # without ACK and not the answer to the SYN-ACK
    Story("cS cR1", Ended.RST, end=1, only_from=C),  # answers a SYN-ACK that comes too late
]
ONLY_SERVER = [
    Story("sSA sF", Ended.FIN, end=1, only_from=S),
    Story("sSA sSA sF sF", Ended.FIN, end=2, only_from=S),
    Story("sSA sF sR", Ended.FIN, end=1, only_from=S),
    Story("sSA sRA", Ended.RST, end=1, only_from=S),
    Story("sSA sSA'", Ended.OPEN, partial=True),
]
"""The other side's segments pass another interface."""
STRAYS = [Story("cS sSA cR- sF- cF sF", Ended.FIN, C, 4, 5)]
"""Segments of an earlier connection, which are known as that only for some milliseconds."""
OPEN_BEFORE = [
    Story("sSA cF sF", Ended.FIN, C, 1, 2, partial=True),
    Story("cF sF", Ended.FIN, C, 0, 1, partial=True),
    Story("cF cF sF", Ended.FIN, C, 0, 2, fins_again=1, partial=True),
    Story("cRA", Ended.RST, C, 0, partial=True),
    Story("cF sR", Ended.RST, C, 0, partial=True),
    Story("cF", Ended.OPEN, C, 0, partial=True),
]
"""Beginnings that were not seen."""

_PLACES = [  # (flow, interface, VLAN): two differ in the interface only, two in the VLAN, one has IPv6, one swaps the roles
    (FLOW, 2, 0),
    (FLOW, 3, 0),
    (FLOW, 2, 7),
    (Flow("2001:db8::1", 80, "2001:db8::2", 50000), 2, 0),
    (Flow("192.0.2.1", 80, "192.0.2.1", 40000), 2, 0),
]
_LOOPBACK = 1


class Told(NamedTuple):
    """What a row must say."""

    ifindex: int
    vlan: int
    flow: Flow
    start_ns: int
    end_ns: int
    duration_ns: int
    second_fin_ns: int
    ended: Ended
    closed_first: Side
    only_from: Side
    syns_again: int
    fins_again: int


@dataclass
class Traffic:
    """Events as they come, and the truth about every row that they must give; `shown` in a failure."""

    events: list[np.ndarray] = field(default_factory=list)
    truth: list[Told] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        return "\n".join(["Traffic of", *self.shown])


@st.composite
def traffic(draw) -> Traffic:
    """Interleave connections on several flows, each used again and again, the roles swapped at times; on loopback all twice."""
    result, random = Traffic(), draw(st.randoms(use_true_random=False))
    queues = []
    for place, ifindex, vlan in [*_PLACES, (FLOW, _LOOPBACK, 0)]:
        flow = place
        script = draw(st.lists(st.sampled_from(ONLY_SERVER), max_size=2))
        script += draw(st.lists(st.sampled_from([*WHOLE, *STRAYS, *ONLY_CLIENT]), max_size=3))
        if draw(st.booleans()):
            script.insert(0, draw(st.sampled_from(OPEN_BEFORE)))
        lives, used = [], defaultdict(list)
        for story in script:
            # Who waits for an answer and is called by the one that it calls opens the same connection: the roles stay.
            if random.random() < 0.3 and not story.partial and not (lives and lives[-1].story.ended is Ended.TIMEOUT):
                flow = flow.reversed()
            lives.append(_life(story, flow, ifindex, vlan, random, used))
        queues.append([(life, step) for life in lives for step in range(len(life.rows))])
        for life in lives[:-1]:
            life.followed = True
        result.shown += [f"{life.flow} if {ifindex} vlan {vlan}: {life.story.words}" for life in lives]
    time_ns = 0
    lives = {id(life): life for queue in queues for life, _ in queue}
    while queues := [queue for queue in queues if queue]:
        life, step = random.choice(queues).pop(0)
        time_ns += random.randrange(2, 1000)
        row = life.rows[step]
        row["time_ns"] = time_ns
        life.times_ns.append(time_ns)
        result.events.append(row)
        if row["ifindex"] == _LOOPBACK:
            again = row.copy()
            again["time_ns"], again["ingress"] = time_ns + 1, 1
            result.events.append(again)
    result.truth = sorted(_told(life) for life in lives.values())
    return result


@dataclass
class _Life:
    story: Story
    flow: Flow
    ifindex: int
    vlan: int
    rows: list[np.ndarray]
    times_ns: list[int] = field(default_factory=list)
    followed: bool = False


def _life(story: Story, flow: Flow, ifindex: int, vlan: int, random, used: dict[Flow, list[int]]) -> _Life:
    isns = tuple(_isn(random, used[here]) for here in (flow, flow.reversed()))
    return _Life(story, flow, ifindex, vlan, exchange(story.words, 0, isns, flow, ifindex=ifindex, vlan=vlan))


def _isn(random, used: list[int]) -> int:
    """Draw an initial sequence number, apart from those that the host has used, and add it to them."""
    isn = random.randrange(_RANGE)
    while any(min((isn - other) % _RANGE, (other - isn) % _RANGE) < _APART for other in used):
        isn = (isn + _APART) % _RANGE
    used.append(isn)
    return isn


def _told(life: _Life) -> Told:
    story, times_ns = life.story, life.times_ns
    start_ns = UNKNOWN if story.partial else times_ns[0]
    at = [UNKNOWN if step is None else times_ns[step] for step in (story.end, story.second_fin)]
    lasted = [UNKNOWN if UNKNOWN in {time_ns, start_ns} else time_ns - start_ns for time_ns in at]
    ended = story.ended
    if life.followed and ended is Ended.OPEN:
        ended = Ended.REPLACED
    if not life.followed and ended is Ended.TIMEOUT:
        ended = Ended.OPEN
    syns_again = 0 if story.partial else story.syns_again
    counts = syns_again, story.fins_again
    sides = story.closed_first, story.only_from
    return Told(life.ifindex, life.vlan, life.flow, start_ns, at[0], *lasted, ended, *sides, *counts)


def told(rows: np.ndarray) -> list[Told]:
    """Return what rows say, in the order of `Traffic.truth`."""
    names = ("start_ns", "end_ns", "duration_ns", "second_fin_ns", "ended", "closed_first", "only_from")
    names += ("syn_retransmissions", "fin_retransmissions")
    return sorted(
        Told(
            int(row["ifindex"]),
            int(row["vlan"]),
            Flow(
                address_text(row["saddr"].tobytes()),
                int(row["sport"]),
                address_text(row["daddr"].tobytes()),
                int(row["dport"]),
            ),
            *(int(row[name]) for name in names),
        )
        for row in rows
    )
