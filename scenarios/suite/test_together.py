"""All probes at once on 2,000 connections: nothing is lost, and whoever sees the same fact says the same of it.

L2: the loss is counted in every result, and here it is none. L1, L3: what all of them tell is in one order, by one clock.
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
    """Hold the conversations once, for all of these tests."""
    with topology() as net:
        # An accept queue that overflows has the kernel reset connections that both applications believe in.
        net.server.sysctl("core/somaxconn", CONNECTIONS)
        conversation = Conversation()
        with observe(net, conversation, probes=probes.here(), connections=CONNECTIONS, concurrency=8) as observed:
            pass
    return observed


@pytest.fixture(scope="module")
def seen(observed):
    return cross_checks.seen(observed.recording, observed.inodes)


def test_nothing_is_lost(observed):
    """L2: every probe counts what it could not tell, and it is nothing; the connections are all there."""
    assert len(observed.connections) == CONNECTIONS
    cross_checks.nothing_is_lost(observed.recording)


@pytest.mark.parametrize("probe", probes.names())
def test_every_number_is_judged(lab, observed, probe):
    """Each probe's own judge finds nothing wrong, with all the others attached."""
    assert len(lab.judge(probe, observed)) >= CONNECTIONS


@pytest.mark.parametrize("fact", cross_checks.FACTS, ids=lambda fact: fact.__name__)
def test_they_agree(seen, fact):
    """What two probes see, they say the same of."""
    fact(seen)


def test_the_times_are_the_applications(observed, seen):
    """L3: the first packet comes after the first call of connect(), the last event of either host before all was over."""
    first_ns = min(connection.client.calls[0].enter_ns for connection in observed.connections)
    assert first_ns <= seen["packets"]["time_ns"][0]
    for probe in ("states", "analyse", "duration", "packets"):
        assert seen[probe]["time_ns"].max() <= observed.end_ns
