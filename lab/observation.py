"""Recorded traffic: the probes' recording together with the logs of the applications, the hosts and the wire."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lab import clock
from lab.ebpf.interface import Device
from lab.ebpf.program import Program
from lab.linux.tcp_counters import Sent, tcp_sent
from lab.network.taps import taps
from lab.network.topology import LOOPBACK, Topology
from lab.recording.recorder import record
from lab.recording.recording import Recording
from lab.timeline import Connection
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import Demo, converse
from lab.truth.taps import Seen, TapTruth
from lab.truth.volumes import ETHERNET_HEADER, ETHERNET_MTU
from lab.truth.wire import OnWire, WireTruth
from lab.verdict import Judge


@dataclass
class Observed:
    """Conversations and the recording of them; complete at the end of the `observe` block.

    - `inodes`: of the client's and of the server's network namespace.
    - `end_ns`: a time at which all connections were over (`Topology.quiesce`, nanoseconds on `CLOCK_MONOTONIC`).
    - `sent`: the counters of sent segments of the client's and of the server's host.
    - `wire`: the log of the wire between them, None if the link keeps none.
    - `taps`: what the taps at both hosts' interfaces saw, None if there were none, or if they missed frames.
    - `timestamps`: whether TCP used time stamps (RFC 7323).
    - `mtu`, `link_header`: the longest packet of their interfaces and the header before it, in bytes.
    """

    inodes: tuple[int, int]
    recording: Recording = field(default_factory=lambda: Recording({}))
    connections: list[Connection] = field(default_factory=list)
    end_ns: int = 0
    demo: Demo = field(default_factory=Demo)
    sent: tuple[Sent, Sent] = (Sent(), Sent())
    wire: WireTruth | None = None
    taps: TapTruth | None = None
    timestamps: bool = True
    mtu: int = ETHERNET_MTU
    link_header: int = ETHERNET_HEADER

    def with_wire(self) -> Iterator[tuple[Connection, OnWire | None]]:
        """Yield each connection with its segments on the wire, None if the link keeps no log."""
        every = self.wire.of(self.connections) if self.wire else [None] * len(self.connections)
        yield from zip(self.connections, every, strict=True)

    @cached_property
    def _seen(self) -> dict[int, tuple[Seen | None, Seen | None]]:
        return self.taps.of(self.connections, self.inodes) if self.taps else {}

    def seen(self, connection: Connection) -> tuple[Seen | None, Seen | None]:
        """Return what the taps saw of a connection at the client's and at the server's host, None where nothing is known."""
        return self._seen.get(id(connection), (None, None))

    def seen_at(self, connection: Connection, ifindex: int) -> Seen | None:
        """Return what a tap saw of a connection at an interface of which events were recorded, None if it was not tapped."""
        _, inode = self.recording.devices[ifindex]
        if not self.taps or (inode, ifindex) not in self.taps.devices:
            return None
        seen = self.seen(connection)[self.inodes.index(inode)]
        return seen.at(self.taps.devices.index((inode, ifindex))) if seen else None

    @property
    def ifindexes(self) -> list[int]:
        """The interfaces of the client's and of the server's host of which events were recorded."""
        by_inode = {inode: ifindex for ifindex, (_, inode) in self.recording.devices.items()}
        return [by_inode[inode] for inode in self.inodes]

    def judge(self, scenario: str, probe: str) -> Judge:
        """Return the judge for the numbers of one probe."""
        places = ", ".join(self.recording.attach_points[probe])
        return Judge(scenario, probe, places, self.recording.missing(probe))


@contextmanager
def observing(
    net: Topology,
    *,
    probes: Sequence[str] = (),
    programs: Mapping[str, Program] | None = None,
    lossy: bool = False,
    devices: Sequence[Device] = (),
) -> Iterator[Observed]:
    """Record with probes (by name) or given programs while the block runs.

    The block adds its connections to `connections`. Probes that observe at interfaces are attached to those of both
    hosts, or to `devices` (`Topology.interfaces`).
    """
    observed = Observed(
        net.inodes,
        timestamps=net.description.timestamps,
        mtu=net.description.mtu,
        link_header=ETHERNET_HEADER * net.client.ethernet,
    )
    with (
        taps(_tapped(net)) as tapped,
        record(*probes, programs=programs, devices=devices or net.devices, lossy=lossy) as recorder,
    ):
        before, begun_ns = [tcp_sent(host.name) for host in (net.client, net.server)], time.monotonic_ns()
        yield observed
        observed.end_ns = net.quiesce()
        client, server = (tcp_sent(host.name) for host in (net.client, net.server))
        observed.sent = client.since(before[0]), server.since(before[1])
        if log := net.link.log():
            observed.wire = WireTruth(log, begun_ns)
    observed.recording = recorder.recording
    if tapped.devices and not tapped.faults:
        observed.taps = TapTruth(tapped, begun_ns)


def _tapped(net: Topology) -> list[Device]:
    """Return the interfaces that taps watch, except on the virtual clock, where they would take part in what is measured.

    A packet of the loopback passes it once for both hosts, and is recorded once.
    """
    if clock.of_guest() == clock.VIRTUAL:
        return []
    return [device for device in net.devices if device.ethernet and device.ifindex != LOOPBACK]


@contextmanager
def observe(
    net: Topology,
    conversation: Conversation,
    *,
    probes: Sequence[str] | None = None,
    programs: Mapping[str, Program] | None = None,
    lossy: bool = False,
    devices: Sequence[Device] = (),
    **how: Any,
) -> Iterator[Observed]:
    """Hold conversations and record them, with the probe `states` unless others are named.

    `how`: arguments of `lab.traffic.demo.process.converse`. The conversations run while the block runs (`demo`).
    """
    if probes is None:
        probes = () if programs else ("states",)
    with observing(net, probes=probes, programs=programs, lossy=lossy, devices=devices) as observed:
        with converse(net, conversation, **how) as observed.demo:
            yield observed
        observed.connections += observed.demo.connections
