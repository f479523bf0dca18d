"""Traffic under observation: what the probes recorded, beside what those who caused it know."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lab.ebpf.program import Program
from lab.ebpf.recorder import record
from lab.ebpf.recording import Recording
from lab.linux.tcp_counters import Sent, tcp_sent
from lab.network.topology import Topology
from lab.timeline import Connection
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import Demo, converse
from lab.truth.wire import OnWire, WireTruth
from lab.verdict import Judge


@dataclass
class Observed:
    """Conversations, and what the probes recorded of them; complete at the end of the `observe` block.

    `inodes` are those of the client's and the server's network namespace, `end_ns` a time at which all of the connections were
    over (`Topology.quiesce`, nanoseconds on `CLOCK_MONOTONIC`), `sent` what the kernels of client and server count as sent, `wire`
    what was carried between them meanwhile, if the link keeps a log.
    """

    inodes: tuple[int, int]
    recording: Recording = field(default_factory=lambda: Recording({}))
    connections: list[Connection] = field(default_factory=list)
    end_ns: int = 0
    demo: Demo = field(default_factory=Demo)
    sent: tuple[Sent, Sent] = (Sent(), Sent())
    wire: WireTruth | None = None

    def with_wire(self) -> Iterator[tuple[Connection, OnWire | None]]:
        """Yield each connection with what the wire has carried of it, None if it keeps no log."""
        every = self.wire.of(self.connections) if self.wire else [None] * len(self.connections)
        yield from zip(self.connections, every, strict=True)

    def judge(self, scenario: str, probe: str) -> Judge:
        """Return the judge of one probe's numbers."""
        places = ", ".join(self.recording.attach_points[probe])
        return Judge(scenario, probe, places, self.recording.missing(probe))


@contextmanager
def observing(
    net: Topology,
    *,
    probes: Sequence[str] = (),
    programs: Mapping[str, Program] | None = None,
    lossy: bool = False,
) -> Iterator[Observed]:
    """Attach probes, by name, or given programs while conversations are held inside the block, which adds them to `connections`.

    Those that observe at interfaces are attached to both hosts' `eth0`.
    """
    observed = Observed(net.inodes)
    with record(*probes, programs=programs, devices=net.devices, lossy=lossy) as recorder:
        before, begun_ns = [tcp_sent(host.name) for host in (net.client, net.server)], time.monotonic_ns()
        yield observed
        observed.end_ns = net.quiesce()
        client, server = (tcp_sent(host.name) for host in (net.client, net.server))
        observed.sent = client.since(before[0]), server.since(before[1])
        if log := net.link.log():
            observed.wire = WireTruth(log, begun_ns)
    observed.recording = recorder.recording


@contextmanager
def observe(
    net: Topology,
    conversation: Conversation,
    *,
    probes: Sequence[str] | None = None,
    programs: Mapping[str, Program] | None = None,
    lossy: bool = False,
    **how: Any,
) -> Iterator[Observed]:
    """Hold conversations under observation, by the probe `states` unless others are named.

    `how`: as for `lab.traffic.demo.process.converse`. Inside the block the conversations are under way (`demo`).
    """
    if probes is None:
        probes = () if programs else ("states",)
    with observing(net, probes=probes, programs=programs, lossy=lossy) as observed:
        with converse(net, conversation, **how) as observed.demo:
            yield observed
        observed.connections += observed.demo.connections
