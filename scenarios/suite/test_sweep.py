"""Every probe on every kind of wire (delay, direction, jitter, loss): values are judged by the wire's log."""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest
from support.lockstep import conversing

from lab import probes
from lab.network.conditions import Conditions
from lab.network.frame_log import Fate, hold_ns
from lab.network.relay import Relay
from lab.network.topology import topology
from lab.observation import observe, observing
from lab.packet import ACK, SYN
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse
from lab.units import MS

PERFECT = Conditions()
CONVERSATION = Conversation(exchanges=3)
EVERY = probes.names()
SIZE = 375
AT_ONCE = 3  # connections of each IP version on each kind of wire


@dataclass(frozen=True)
class Kind:
    """One kind of wire."""

    delay_ms: int
    direction: str
    jitter_ms: int
    loss: float
    duplicate: float = 0.0
    reorder: float = 0.0

    def conditions(self, seed):
        """Return the conditions to the server and to the client."""
        conditions = Conditions(
            delay_ns=self.delay_ms * MS,
            jitter_ns=self.jitter_ms * MS,
            loss=self.loss,
            duplicate=self.duplicate,
            reorder=self.reorder,
            seed=seed,
        )
        return tuple(conditions if self.direction in (way, "both ways") else PERFECT for way in ("there", "back"))

    def __str__(self):
        doubled = f", {self.duplicate:g} doubled, {self.reorder:g} reordered" if self.duplicate else ""
        return f"{self.delay_ms} ms {self.direction}, jitter {self.jitter_ms} ms, loss {self.loss:g}{doubled}"


DIRECTIONS = ("there", "back", "both ways")
KINDS = [
    *(
        Kind(delay_ms, direction, jitter_ms, loss)
        for delay_ms, direction, jitter_ms, loss in product((0, 4, 30), DIRECTIONS, (0, 3), (0.0, 0.05))
        if jitter_ms <= delay_ms
    ),
    *(Kind(4, direction, 0, 0.03, duplicate=0.2, reorder=0.3) for direction in DIRECTIONS),
]


@pytest.fixture(scope="module")
def net():
    """One network for all tests: the recordings to judge come from other networks."""
    with topology() as net:
        yield net


@pytest.fixture(scope="module", params=enumerate(KINDS), ids=lambda numbered: str(numbered[1]))
def swept(request):
    """Record conversations on one kind of wire.

    Each kind has its own recording: one with withheld events is repeated.
    """
    seed, kind = request.param
    with topology(Relay()) as net:
        net.conditions(*kind.conditions(seed))
        with observing(net, probes=probes.here()) as observed, ExitStack() as stack:
            demos = [
                stack.enter_context(converse(net, CONVERSATION, version=version, connections=AT_ONCE))
                for version in (4, 6)
            ]
        observed.connections += [connection for demo in demos for connection in demo.connections]
    return observed


@pytest.mark.parametrize("probe", EVERY)
def test_every_number_on_every_wire(lab, swept, probe):
    """Handshake and state times, SYN to FIN, RTTs, packets, bytes and retransmissions agree with the wire's log."""
    assert len(swept.connections) == 2 * AT_ONCE
    lab.judge(probe, swept)


def earlier(events, mask, by_ns):
    """Return the events with the times of some moved back by `by_ns`."""
    changed = events.copy()
    changed["time_ns"][mask] -= by_ns
    return changed


def test_the_wires_log_catches_small_errors():
    """A packet 1 ms too early, one missing, one counted twice, one retransmission missed: each fails a check."""
    with topology(Relay()) as net:
        net.conditions(Conditions(delay_ns=4 * MS, drop=(1,)), PERFECT)
        with observe(net, CONVERSATION, probes=probes.here(), connections=AT_ONCE) as observed:
            pass
    recording = observed.recording

    def wrong(probe, events=None, totals=None):
        events, totals = events or {}, totals or {}
        altered = replace(recording, events=recording.events | events, totals=recording.totals | totals)
        checks = probes.judge(probe, replace(observed, recording=altered), "wrong")
        return {check.quantity for check in checks if not check.passed}

    packets = recording.events["packets"]
    late = packets["time_ns"] > packets["time_ns"][0] + 5 * MS
    assert wrong("packets", {"packets": earlier(packets, late, MS)}) >= {
        "packets that arrive before they leave the wire"
    }
    assert wrong("packets", {"packets": packets[1:]}) >= {"packets"}
    totals = recording.totals["flows"].copy()
    totals["packets"][np.argmax(totals["packets"])] += 1
    assert wrong("flows", totals={"flows": totals}) & {"what left", "what arrived"}
    segments = recording.events["duration"]
    syns = np.flatnonzero(segments["flags"] & (SYN | ACK) == SYN)
    _, firsts = np.unique(segments[syns][["ifindex", "seq"]], return_index=True)
    again = np.delete(syns, firsts)
    assert wrong("duration", {"duration": np.delete(segments, again[0])}) == {"SYN retransmissions"}


@pytest.fixture(scope="module")
def disturbed():
    """Record, per IP version, a connection whose delay changes and one whose third frame to the server is lost."""
    slow = Conditions(delay_ns=15 * MS)
    connections = {}
    with topology(Relay()) as net, observing(net, probes=probes.here()) as observed:
        for version in (4, 6):
            with conversing(net, version) as stepped:
                for _ in range(3):
                    stepped.exchange(SIZE)
                change = net.conditions(slow, slow)
                for _ in range(3):
                    stepped.exchange(SIZE)
            net.quiesce()
            net.conditions(Conditions(drop=(3,)), PERFECT)
            with conversing(net, version) as lossy:
                lossy.exchange(SIZE)
            net.quiesce()
            net.conditions(PERFECT, PERFECT)
            observed.connections += stepped.connections + lossy.connections
            connections[version] = (change, *stepped.connections, *lossy.connections)
    return observed, connections


@pytest.mark.parametrize("probe", EVERY)
def test_a_step_and_a_loss_of_the_third_packet(lab, disturbed, probe):
    """Every probe is right about a delay that changes during a connection, and about a request that was lost."""
    observed, _ = disturbed
    lab.judge(probe, observed)


@pytest.mark.parametrize("version", [4, 6])
def test_the_wires_log_has_the_step_and_the_loss(disturbed, version):
    """The log has the longer delay from the change on, and a lost request and its retransmission."""
    observed, connections = disturbed
    change, stepped, lossy = connections[version]
    for way in observed.wire.of([stepped])[0].streams:
        before = way.left["arrived_low_ns"] < change.earliest_ns
        shortest_ns, longest_ns = hold_ns(way.left)
        assert before.any()
        assert shortest_ns[~before].min() >= 15 * MS
        assert longest_ns[before].min() < 15 * MS
    to_server = observed.wire.of([lossy])[0].to_server
    assert list(np.flatnonzero(to_server.left["fate"] == Fate.LOST)) == [2]
    assert to_server.left["payload"][2] == SIZE
    assert to_server.again == 1
