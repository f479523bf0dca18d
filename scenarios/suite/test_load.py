"""Load from the demo client with all probes attached: no event is lost, every value is judged, and the probes agree.

The rate is not checked, since it depends on the machine. `lab bench load` measures it.
"""

import time

import pytest
from support import cross_checks

from lab import probes
from lab.traffic.demo.conversation import Conversation
from lab.units import SECOND

MEGABYTE = 8_000_000

LOADS = {
    "at_a_rate": (Conversation(), {"connections": 400, "rate": 2000, "concurrency": 8}),
    "requests": (Conversation(exchanges=200), {"connections": 2, "version": 6}),
    "bulk_to_server": (Conversation(size_bits=8 * MEGABYTE, reply_bits=8), {"connections": 1}),
    "bulk_to_client": (Conversation(size_bits=8, reply_bits=8 * MEGABYTE), {"connections": 1, "version": 6}),
    "bulk_both_ways": (Conversation(size_bits=4 * MEGABYTE, exchanges=2), {"connections": 1}),
}


@pytest.mark.parametrize("load", LOADS)
def test_load(lab, load):
    """Many connections, many requests, many bytes."""
    conversation, how = LOADS[load]
    lab.net.server.sysctl("core/somaxconn", how["connections"])
    observed = lab.converse(conversation, probes=probes.here(), **how)
    assert len(observed.connections) == how["connections"]
    cross_checks.nothing_is_lost(observed.recording)
    cross_checks.hold(cross_checks.seen(observed.recording, observed.inodes))
    for probe in probes.here():
        lab.judge(probe, observed)


def test_a_rate_is_kept(lab):
    """No connection begins before its scheduled time, even if the earlier ones were fast."""
    before_ns = time.monotonic_ns()
    observed = lab.converse(Conversation(), connections=20, concurrency=2, rate=20)
    begun = sorted(connection.client.find("connect").enter_ns for connection in observed.connections)
    assert all(begun_ns >= before_ns + number * SECOND // 20 for number, begun_ns in enumerate(begun))
