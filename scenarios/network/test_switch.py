"""A switch with many hosts: all are watched at once, and each connection is judged as if it were alone."""

from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from lab import probes
from lab.linux.tcp_counters import tcp_sent
from lab.network.segment_parser import packed
from lab.observation import observing
from lab.timeline import pair
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import Endpoint
from lab.units import MS

ABOUT = Conversation(hold_ns=20 * MS, before_reply_ns=5 * MS, exchanges=3, size_bits=40_000)
PAIRS = {
    "switch": [("client", "server"), ("client2", "server"), ("client3", "server")],
    "switch-pairs": [("client", "server"), ("client2", "server2")],
}


def of_client(address, rows):
    """Return the rows with a client's address, or all rows of probes whose judges find each socket among others."""
    names = [name for name in rows.dtype.names if name.endswith("addr") and rows.dtype[name].shape == (16,)]
    if not names or "skaddr" in rows.dtype.names:
        return rows
    there = np.frombuffer(packed(address).tobytes(), np.uint8)
    return rows[np.any([(rows[name] == there).all(axis=1) for name in names], axis=0)]


def part(observed, hosts, version, sent):
    """Return what was observed of the client of a pair of hosts."""
    address = hosts.client.address(version)
    connections = [it for it in observed.connections if it.client.flow.laddr == address]
    mine = partial(of_client, address)
    recording = observed.recording
    own = replace(
        recording,
        events={probe: mine(rows) for probe, rows in recording.events.items()},
        totals={probe: mine(rows) for probe, rows in recording.totals.items()},
        devices={index: device for index, device in recording.devices.items() if device[1] in hosts.inodes},
    )
    return replace(observed, inodes=hosts.inodes, recording=own, connections=connections, sent=sent)


def talked(pairs, version):
    """Hold a conversation of each pair of hosts at the same time, with one server program on each server's host."""
    common, clients = ABOUT.arguments(), Counter(two.server for two in pairs)
    with ExitStack() as stack:
        servers = [
            stack.enter_context(Endpoint("serve", host, [*common, "--connections", str(number)]))
            for host, number in clients.items()
        ]
        for server in servers:
            server.await_ready()
        talking = [
            stack.enter_context(Endpoint("connect", it.client, [*common, it.target.address(version)])) for it in pairs
        ]
        return pair([timeline for end in (*talking, *servers) for timeline in end.finish()])


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("net", PAIRS, indirect=True)
def test_many_hosts(lab, request, version):
    """Several clients talk to one server, and several pairs of hosts to each other, at the same time."""
    network, every = lab.net, probes.here()
    pairs = [network.between(*names) for names in PAIRS[request.node.callspec.params["net"]]]
    hosts = list(network.hosts.values())
    before = {host: tcp_sent(host.name) for host in hosts}
    with observing(network, probes=every, devices=[host.device for host in hosts]) as observed:
        observed.connections += talked(pairs, version)
    counted = {host: tcp_sent(host.name).since(before[host]) for host in hosts}
    assert len(observed.connections) == len(pairs)
    shared = len({two.server for two in pairs}) < len(pairs)
    for two in pairs:
        own = part(observed, two, version, (counted[two.client], counted[two.server]))
        for probe in every:
            checks = probes.judge(probe, own, request.node.name)
            # The counters of a host do not say which client a segment was for.
            lab.check(it for it in checks if not (shared and it.subject == "the server's host"))
    totals = observed.recording.totals["flows"]
    sent = totals[(totals["protocol"] == 6) & (totals["direction"] == 1)]
    for host, segments in counted.items():
        packets = int(sent["packets"][sent["ifindex"] == host.ifindex].sum())
        assert segments.segments <= packets <= segments.segments + segments.retransmitted
