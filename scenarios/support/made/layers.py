"""Points of the probe `layers` made by hand: connections on a network that cuts, loses, repeats and reorders, and their truth.

What lives here: one way to write a point, and a small network whose every decision is known. What does not: any expectation.
"""

from dataclasses import dataclass, field
from random import Random

import numpy as np

from lab.arrays import UNKNOWN
from lab.packet import ACK, SYN
from lab.probes.layers.stages import At, Stop
from lab.tcp import Flow
from lab.units import MS
from support.made.states import packed

CLIENT_NETNS, SERVER_NETNS = 1, 2
MSS = 1000
PORT = 80

_KINDS = {
    **dict.fromkeys(("time_ns", "enter_ns", "awake_ns", "woken_ns", "told_ns"), "u8"),
    **dict.fromkeys(("netns", "seq", "length", "tsval"), "u4"),
    **dict.fromkeys(("sport", "dport"), "u2"),
    **dict.fromkeys(("at", "flags", "multiplexed", "of_socket"), "u1"),
}
POINT = np.dtype([*_KINDS.items(), ("saddr", "u1", 16), ("daddr", "u1", 16)])
"""As the probe writes it, in another order: only the names matter."""

FLOW = Flow("192.0.2.1", 40000, "192.0.2.2", PORT)


def point(time_ns: int, at: At, seq: int, length: int, flow: Flow = FLOW, **fields) -> np.ndarray:
    """One point; `flow` has the sender of the data first."""
    row = np.zeros((), POINT)
    sender, receiver = (CLIENT_NETNS, SERVER_NETNS) if flow.rport == PORT else (SERVER_NETNS, CLIENT_NETNS)
    known = {
        "time_ns": time_ns,
        "at": at,
        "seq": seq % (1 << 32),
        "length": length,
        "saddr": packed(flow.laddr),
        "sport": flow.lport,
        "daddr": packed(flow.raddr),
        "dport": flow.rport,
        "netns": sender if at <= At.DEVICE_OUT else receiver,
    }
    for name, value in (known | fields).items():
        row[name] = value
    return row


def points(*rows: np.ndarray) -> np.ndarray:
    """Return points, single ones and arrays of them, as one array in order of time."""
    array = np.concatenate([np.atleast_1d(row) for row in rows]) if rows else np.zeros(0, POINT)
    return array[np.argsort(array["time_ns"], kind="stable")]


@dataclass
class Way:
    """What is true of one byte: its stops, and how often it was handed to TC."""

    stops: list[int]
    sent: int


@dataclass
class Network:
    """A network with a clock of its own. `loss` and `spurious` are how likely a transmission is lost, or repeated without need."""

    seed: int
    loss: float = 0.0
    spurious: float = 0.0
    now_ns: int = 1000
    rows: list[np.ndarray] = field(default_factory=list)
    random: Random = field(init=False)

    def __post_init__(self):
        self.random = Random(self.seed)  # noqa: S311 (a game, no secret)

    def later(self, most_ns: int = 50_000) -> int:
        """Let some time pass."""
        self.now_ns += self.random.randint(1, most_ns)
        return self.now_ns

    def open(self, flow: Flow, isn: int, peer_isn: int) -> None:
        """Exchange SYN and SYN-ACK, the first perhaps twice."""
        for _ in range(self.random.randint(1, 2)):
            for at in (At.TC_OUT, At.DEVICE_OUT, At.DEVICE_IN):
                self.rows.append(point(self.later(), at, isn, 0, flow, flags=SYN))
        self.rows.append(point(self.later(), At.TC_OUT, peer_isn, 0, flow.reversed(), flags=SYN | ACK))

    def send(self, flow: Flow, seq: int, sizes: list[int]) -> Way:
        """Write so many bytes each time, have them arrive, read them all; returns the way of the last byte."""
        total, at = sum(sizes), 0
        begun_ns = 0
        sent: list[tuple[int, int, int, int]] = []  # first and last byte, when handed to TC and to the driver
        for size in sizes:
            written_ns = self.later()
            begun_ns = begun_ns or written_ns
            joined = self.random.random() < 0.5  # one super-packet, or segments
            cut = joined and self.random.random() < 0.5  # which the driver gets in pieces
            for first in range(at, at + size, size if joined else MSS):
                last = min(at + size, first + (size if joined else MSS))
                sent += self._transmit(flow, seq, first, last, cut=cut)
            self.rows.append(point(self.later(), At.WRITE, seq + at, size, flow, enter_ns=written_ns))
            at += size
        arrivals = self._arrivals(flow, seq, sent)
        return self._receive(flow, seq, total, written_ns, begun_ns, sent, arrivals)

    def _transmit(self, flow: Flow, seq: int, first: int, last: int, *, cut: bool) -> list[tuple[int, int, int, int]]:
        tc_ns = self.later()
        tsval = tc_ns // MS
        self.rows.append(point(tc_ns, At.TC_OUT, seq + first, last - first, flow, tsval=tsval))
        pieces = []
        for start in range(first, last, MSS if cut else last - first):
            end = min(last, start + MSS) if cut else last
            device_ns = self.later()
            self.rows.append(point(device_ns, At.DEVICE_OUT, seq + start, end - start, flow, tsval=tsval))
            pieces.append((start, end, tc_ns, device_ns))
        return pieces

    def _arrivals(self, flow: Flow, seq: int, sent: list[tuple[int, int, int, int]]) -> list[tuple[int, ...]]:
        """Carry what was sent, in any order; what is lost is sent again, at least a millisecond later, until it comes."""
        arrivals = []
        waiting = list(sent)
        while waiting:
            start, end, tc_ns, device_ns = waiting.pop(0)
            lost = self.random.random() < self.loss
            if not lost:
                arrivals.append((device_ns + self.random.randint(1, 3 * MS), start, end, tc_ns, device_ns))
            if lost or self.random.random() < self.spurious:
                self.now_ns += 2 * MS
                again = self._transmit(flow, seq, start, end, cut=False)
                sent += again
                waiting += again
        return sorted(arrivals)

    def _receive(self, flow, seq, total, written_ns, begun_ns, sent, arrivals) -> Way:
        had: set[int] = set()
        expected = read = 0
        last = total - 1
        stops = dict.fromkeys(Stop, UNKNOWN)
        for came_ns, start, end, tc_ns, device_ns in arrivals:
            self.now_ns = max(self.now_ns, came_ns)
            times = [came_ns if at is At.DEVICE_IN else self.later(100) for at in (At.DEVICE_IN, At.TC_IN, At.TCP_IN)]
            for at, time_ns in zip((At.DEVICE_IN, At.TC_IN, At.TCP_IN), times, strict=True):
                self.rows.append(point(time_ns, at, seq + start, end - start, flow, tsval=tc_ns // MS))
            if start <= last < end and last not in had:
                stops |= {Stop.TC_OUT: tc_ns, Stop.DEVICE_OUT: device_ns}
                stops |= dict(zip((Stop.DEVICE_IN, Stop.TC_IN, Stop.TCP_IN), times, strict=True))
            new = set(range(start, end)) - had
            had |= new
            before = expected
            while expected in had:
                expected += 1
            if expected == before:
                continue
            waiting_since = self.now_ns - 5 if self.random.random() < 0.5 else 0
            polls = not waiting_since and self.random.random() < 0.5
            ready_ns = self.later(100)
            self.rows.append(point(ready_ns, At.READY, seq + expected, 0, flow))
            if expected == total:
                stops[Stop.READY] = ready_ns
            if expected == total or self.random.random() < 0.5:
                told_ns = self.later() if polls else self.random.choice([0, 1, ready_ns - 1])
                enter_ns = waiting_since or self.later()
                awake_ns = self.later() if waiting_since else 0
                time_ns = self.later()
                woken_ns = ready_ns - self.random.randint(0, 3) if polls else self.random.choice([0, time_ns])
                known = {"enter_ns": enter_ns, "awake_ns": awake_ns, "woken_ns": woken_ns, "told_ns": told_ns}
                self.rows.append(point(time_ns, At.READ, seq + read, expected - read, flow, **known))
                read = expected
                stops |= {
                    Stop.AWAKE: awake_ns or (told_ns if polls else ready_ns),
                    Stop.PICKED: awake_ns or enter_ns,
                    Stop.READ: time_ns,
                }
        mine = [tc_ns for start, end, tc_ns, _ in sent if start <= last < end]
        stops |= {Stop.BEGUN: begun_ns, Stop.WRITTEN: written_ns, Stop.FIRST_OUT: min(mine)}
        return Way([stops[stop] for stop in Stop], len(set(mine)))


def talk(network, flow, numbers, turns):
    """Exchange requests and replies of random sizes; returns the truth of each byte that ends one."""
    client, server = (number + 1 for number in numbers)
    truth = []
    for _ in range(turns):
        asked, answered = (
            [network.random.randint(1, 4 * MSS) for _ in range(network.random.randint(1, 3))] for _ in range(2)
        )
        truth.append((network.send(flow, client, asked), network.send(flow.reversed(), server, answered)))
        client, server = client + sum(asked), server + sum(answered)
    return truth
