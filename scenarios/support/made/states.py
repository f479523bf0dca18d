"""Events of the probe `states` made by hand, and random traffic together with the truth about it.

What lives here: how to write a state change in one line, and a hypothesis strategy that interleaves whole lives of
sockets as the kernel would. What does not: any expectation of a single test.
"""

import ipaddress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from lab.arrays import UNKNOWN
from lab.tcp import Flow, State

_FIELDS = {
    "time_ns": ("u8", 0),
    "skaddr": ("u8", 8),
    "laddr": (("u1", 16), 16),
    "raddr": (("u1", 16), 32),
    "netns": ("u4", 48),
    "tgid": ("u4", 52),
    "tid": ("u4", 56),
    "handshake_rtt_us": ("u4", 60),
    "lost": ("u4", 64),
    "lport": ("u2", 68),
    "rport": ("u2", 70),
    "again": ("u1", 72),
    "oldstate": ("u1", 73),
    "newstate": ("u1", 74),
    "closed": ("u1", 75),
    "comm": ("S16", 76),
    "thread": ("S16", 92),
}
STATE_CHANGE = np.dtype(
    {
        "names": list(_FIELDS),
        "formats": [kind for kind, _ in _FIELDS.values()],
        "offsets": [offset for _, offset in _FIELDS.values()],
        "itemsize": 112,
    }
)
"""As the probe writes it. `lost` counts the events that the kernel could not deliver before this one."""

NOWHERE = "0.0.0.0"  # noqa: S104 (an address that is not known yet)
CLIENT = Flow("192.0.2.1", 40000, "192.0.2.2", 80)
SERVER = CLIENT.reversed()


def packed(address: str) -> list[int]:
    """16 bytes in network order, IPv4 as ::ffff:a.b.c.d."""
    return list(ipaddress.IPv6Address(address if ":" in address else f"::ffff:{address}").packed)


def change(time_ns: int, states: str, flow: Flow = CLIENT, skaddr: int = 0xA0, **fields) -> np.ndarray:
    """One event: `change(5, "CLOSE -> SYN_SENT")`; `fields` are those of the probe that matter to the test."""
    row = np.zeros((), STATE_CHANGE)
    oldstate, newstate = (State[name] for name in states.split(" -> "))
    known = {
        "time_ns": time_ns,
        "skaddr": skaddr,
        "laddr": packed(flow.laddr),
        "raddr": packed(flow.raddr),
        "netns": 1,
        "lport": flow.lport,
        "rport": flow.rport,
        "oldstate": oldstate,
        "newstate": newstate,
    }
    for name, value in (known | fields).items():
        row[name] = value
    return row


def segment(time_ns: int, flow: Flow = CLIENT, newstate: str = "TIME_WAIT", **fields) -> np.ndarray:
    """One FIN (or RST, `newstate="CLOSE"`) that a timewait minisock has taken."""
    return change(time_ns, f"FIN_WAIT2 -> {newstate}", flow, skaddr=0, **fields)


def life(states: str, flow: Flow = CLIENT, skaddr: int = 0xA0, start_ns: int = 0, **fields) -> list[np.ndarray]:
    """Return one event for each arrow of `A -> B -> C`, 10 ns after each other, the first at `start_ns`."""
    names = states.split(" -> ")
    return [
        change(start_ns + 10 * i, f"{old} -> {new}", flow, skaddr, **fields)
        for i, (old, new) in enumerate(pairwise(names))
    ]


def changes(*rows: np.ndarray) -> np.ndarray:
    """Return the events as one array, in the order given."""
    array = np.zeros(len(rows), STATE_CHANGE)
    for index, row in enumerate(rows):
        array[index] = row
    return array


def spent(rows: np.ndarray) -> list[tuple[str, int | None]]:
    """Each row's old state and the time spent there, None for unknown: what a reader of the report sees."""
    durations = [None if row["duration_ns"] == UNKNOWN else int(row["duration_ns"]) for row in rows]
    return [(State(row["oldstate"]).name, duration_ns) for row, duration_ns in zip(rows, durations, strict=True)]


class Truth(NamedTuple):
    """What the row at `time_ns` must say."""

    time_ns: int
    states: str
    duration_ns: int
    flow: Flow
    netns: int
    tgid: int


@dataclass(frozen=True)
class Step:
    """One event of a life to come; a `segment` has no row of its own when it is only a `retransmission`."""

    states: str
    handshake_us: int = 0
    segment: bool = False
    retransmission: bool = False
    unknown: str = ""  # whose address and port the event does not know yet: "l" or "r"


@dataclass(eq=False)
class Life:
    """One socket from its birth on, in one of the places (addresses and flows) that lives take turns in.

    `owned`: which steps a system call causes. `closed_at`: index of the step that close() causes.
    """

    steps: list[Step]
    slot: int
    place: int
    tgid: int
    owned: list[bool]
    closed_at: int
    times_ns: list[int] = field(default_factory=list)

    def owner(self, index: int) -> int:
        """Return the process whose system call causes the step with that index, 0 if a segment or timer does."""
        return self.tgid if not self.steps[index].segment and (self.owned[index] or index == self.closed_at) else 0

    @property
    def next(self) -> Step | None:
        """What happens to it next, None when nothing more does before the recording ends."""
        return self.steps[len(self.times_ns)] if len(self.times_ns) < len(self.steps) else None

    @property
    def keeps_address(self) -> bool:
        """Tell whether a full socket still has its kernel address: neither closed nor replaced by a minisock."""
        return not self.next.segment if self.next else self.keeps_flow

    @property
    def keeps_flow(self) -> bool:
        """Tell whether no other socket can have its flow yet; a minisock in FIN_WAIT2 gives it up without a word."""
        return self.next is not None or not self.steps[-1].states.endswith(("-> CLOSE", "-> TIME_WAIT", "-> FIN_WAIT2"))


PLACES = [  # two flows differ in the namespace only, two in the remote port, one has IPv6
    (CLIENT, 1),
    (CLIENT, 2),
    (Flow("192.0.2.1", 40000, "192.0.2.2", 443), 1),
    (Flow("2001:db8::1", 80, "2001:db8::2", 50000), 1),
]
_SLOTS = 2


def _steps(states: str, handshake_us: int = 0) -> list[Step]:
    names = states.split(" -> ")
    return [Step(f"{old} -> {new}", handshake_us if old == "SYN_RECV" else 0) for old, new in pairwise(names)]


_FIN = Step("FIN_WAIT2 -> TIME_WAIT", segment=True)
_RST = Step("FIN_WAIT2 -> CLOSE", segment=True)
_AGAIN = replace(_FIN, retransmission=True)
_CLOSINGS = [
    [],  # stays open
    _steps("ESTABLISHED -> CLOSE"),
    _steps("ESTABLISHED -> CLOSE_WAIT -> LAST_ACK -> CLOSE"),
    _steps("ESTABLISHED -> CLOSE_WAIT -> CLOSE"),
    _steps("ESTABLISHED -> FIN_WAIT1 -> CLOSE"),
    _steps("ESTABLISHED -> FIN_WAIT1 -> CLOSING -> TIME_WAIT"),
    _steps("ESTABLISHED -> FIN_WAIT1 -> FIN_WAIT2 -> TIME_WAIT"),
    [*_steps("ESTABLISHED -> FIN_WAIT1 -> FIN_WAIT2 -> TIME_WAIT"), _AGAIN],
    _steps("ESTABLISHED -> FIN_WAIT1 -> FIN_WAIT2"),  # the minisock's timer runs out: no row
    [*_steps("ESTABLISHED -> FIN_WAIT1 -> FIN_WAIT2"), _FIN],
    [*_steps("ESTABLISHED -> FIN_WAIT1 -> FIN_WAIT2"), _FIN, _AGAIN, _AGAIN],
    [*_steps("ESTABLISHED -> FIN_WAIT1 -> FIN_WAIT2"), _RST],
]


def _unbound(steps: list[Step]) -> list[Step]:
    return [replace(steps[0], unknown="l"), *steps[1:]]


def _child(steps: list[Step]) -> list[Step]:
    return [replace(steps[0], unknown="r"), *steps[1:]]


@st.composite
def _life(draw) -> Life:
    handshake_us = draw(st.sampled_from([0, 7, 20_000]))
    closing = draw(st.sampled_from(_CLOSINGS))
    opening = draw(st.sampled_from(["active", "unbound", "passive", "simultaneous", "refused", "dead child"]))
    steps = {
        "active": _steps("CLOSE -> SYN_SENT -> ESTABLISHED") + closing,
        "unbound": _unbound(_steps("CLOSE -> SYN_SENT -> ESTABLISHED")) + closing,
        "passive": _child(_steps("LISTEN -> SYN_RECV -> ESTABLISHED", handshake_us)) + closing,
        "simultaneous": _steps("CLOSE -> SYN_SENT -> SYN_RECV -> ESTABLISHED", 3) + closing,
        "refused": _unbound(_steps("CLOSE -> SYN_SENT -> CLOSE")),
        "dead child": _child(_steps("LISTEN -> SYN_RECV -> CLOSE")),
    }[opening]
    steps = steps[: draw(st.integers(1, len(steps)))]  # the recording may end in the middle
    owned = draw(st.lists(st.booleans(), min_size=len(steps), max_size=len(steps)))
    place = draw(st.integers(0, len(PLACES) - 1))
    closed_at = draw(st.integers(0, len(steps)))
    return Life(steps, draw(st.integers(1, _SLOTS)), place, draw(st.integers(1000, 1002)), owned, closed_at)


class Traffic(NamedTuple):
    """Events in order of time, and the truth about every row that they must give."""

    events: np.ndarray
    truth: list[Truth]

    def __repr__(self) -> str:
        names = ["time_ns", "skaddr", "netns", "lport", "rport", "tgid", "again"]
        rows = ((State(row["oldstate"]).name, State(row["newstate"]).name, row[names]) for row in self.events)
        return "\n".join(["Traffic of", str(names), *(f"{old} -> {new} {rest}" for old, new, rest in rows)])


@st.composite
def traffic(draw, *, repeats=True) -> Traffic:
    """Interleave lives; a kernel address and a flow serve one at a time, and are used again as soon as they are free.

    With `repeats`, the second program reports some events as well as the first or instead of it.
    """
    waiting, begun, rows = draw(st.lists(_life(), min_size=1, max_size=10)), [], []
    random = draw(st.randoms(use_true_random=False))
    time_ns = 0
    while True:
        slots = {life.slot for life in begun if life.keeps_address}
        places = {life.place for life in begun if life.keeps_flow}
        ready = [life for life in waiting if life.slot not in slots and life.place not in places]
        candidates = ready + [life for life in begun if life.next]
        if not candidates:
            return Traffic(changes(*rows), sorted(truth for life in begun for truth in _truths(life)))
        life = random.choice(candidates)
        if life in ready:
            waiting.remove(life)
            begun.append(life)
        time_ns += random.randrange(1, 1000)
        rows.append(_emit(life, life.next, time_ns))
        if repeats and random.random() < 0.1:
            rows[-1]["again"] = 1
        elif repeats and random.random() < 0.1:
            time_ns += 1
            rows.append(rows[-1].copy())
            rows[-1]["time_ns"], rows[-1]["again"] = time_ns, 1


def _emit(life: Life, step: Step, time_ns: int) -> np.ndarray:
    owner = {}
    index = len(life.times_ns)
    if tgid := life.owner(index):
        owner = {"tgid": tgid, "comm": f"owner-{tgid}", "closed": index == life.closed_at}
    life.times_ns.append(time_ns)
    flow, netns = PLACES[life.place]
    fields = {"netns": netns, "handshake_rtt_us": step.handshake_us, **owner}
    return change(time_ns, step.states, _as_far_as_known(flow, step), 0 if step.segment else life.slot, **fields)


def _as_far_as_known(flow: Flow, step: Step) -> Flow:
    nowhere = "::" if ":" in flow.laddr else NOWHERE
    return flow._replace(**{f"{step.unknown}addr": nowhere, f"{step.unknown}port": 0}) if step.unknown else flow


def _truths(life: Life) -> list[Truth]:
    flow, netns = PLACES[life.place]
    flow = _as_far_as_known(flow, life.steps[-1])
    truths, before_ns, closed_by = [], None, 0
    for index, (time_ns, step) in enumerate(zip(life.times_ns, life.steps, strict=True)):
        closed_by = life.owner(index) if index == life.closed_at else closed_by
        if step.retransmission:
            continue
        duration_ns = UNKNOWN if before_ns is None else time_ns - before_ns
        if step.states.startswith("SYN_RECV") and life.steps[0].states.startswith("LISTEN"):
            duration_ns = step.handshake_us * 1000 or UNKNOWN
        truths.append(Truth(time_ns, step.states, duration_ns, flow, netns, life.owner(index) or closed_by))
        before_ns = time_ns
    return truths
