"""All probes together on 2,000 connections: no event is lost, and probes that observe the same fact report the same.

L2: every result has the number of lost events, here 0. L1, L3: the events of all probes are in one order, on one clock.
"""

import pytest
from support import cross_checks

from lab import probes
from lab.network.topology import topology
from lab.observation import observe
from lab.traffic.demo.conversation import Conversation

CONNECTIONS = 2000


@pytest.fixture(scope="module")
def observed():
    """Record the conversations once for all tests of this module."""
    with topology() as net:
        # If the accept queue overflows, the kernel resets connections that are open for both applications.
        net.server.sysctl("core/somaxconn", CONNECTIONS)
        conversation = Conversation()
        with observe(net, conversation, probes=probes.here(), connections=CONNECTIONS, concurrency=8) as observed:
            pass
    return observed


@pytest.fixture(scope="module")
def seen(observed):
    return cross_checks.seen(observed.recording, observed.inodes)


def test_nothing_is_lost(observed):
    """L2: no event was lost or withheld, and every connection was recorded."""
    assert len(observed.connections) == CONNECTIONS
    cross_checks.nothing_is_lost(observed.recording)


@pytest.mark.parametrize("probe", probes.names())
def test_every_number_is_judged(lab, observed, probe):
    """Each probe passes its judge with all other probes attached."""
    assert len(lab.judge(probe, observed)) >= CONNECTIONS


@pytest.mark.parametrize("fact", cross_checks.FACTS, ids=lambda fact: fact.__name__)
def test_probes_agree(seen, fact):
    """Two probes that observe the same fact report the same."""
    fact(seen)


def test_times_are_on_the_applications_clock(observed, seen):
    """L3: the first packet is after the first connect(), each probe's last event before the end of all connections."""
    first_ns = min(connection.client.calls[0].enter_ns for connection in observed.connections)
    assert first_ns <= seen["packets"]["time_ns"][0]
    for probe in ("states", "analyse", "duration", "packets"):
        assert seen[probe]["time_ns"].max() <= observed.end_ns
