"""Ways to send and receive (`lab/traffic/demo/ways.py`): every probe is right about each.

The conversation is longer than a socket's buffer, so that calls are cut short, and short, so that each call is whole.
"""

import pytest

from lab import probes
from lab.hunt.experiment import UNSEEN
from lab.traffic.demo.conversation import PATTERNS, Conversation
from lab.traffic.demo.ways import WAYS, ways_here
from lab.units import MS


@pytest.mark.parametrize("size", [375, 400_000])
@pytest.mark.parametrize("way", ways_here())
def test_each_way(lab, way, size):
    """The numbers are those of the application's own timestamps."""
    here = [name for name in probes.here() if name not in UNSEEN.get(way, ())]
    conversation = Conversation(
        size_bits=8 * min(size, WAYS[way].most),
        exchanges=2,
        way=way,
        before_recv_ns=2 * MS,
        before_reply_ns=3 * MS,
        linger_ns=MS,
    )
    observed = lab.converse(conversation, probes=here, connections=2, version=4 if size == 375 else 6)
    lab.check(check for name in here for check in probes.judge(name, observed, lab.scenario))


@pytest.mark.parametrize("size", [1, 2000])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_pattern(lab, pattern, size):
    """Q2, Q4, Q8: data that the server pushes, and that is not divided into requests, is no request."""
    conversation = Conversation(
        size_bits=8 * size, reply_bits=8 * 3 * size, exchanges=3, pattern=pattern, before_reply_ns=3 * MS, linger_ns=MS
    )
    observed = lab.converse(conversation, probes=probes.here(), connections=2, version=4 if size == 1 else 6)
    lab.check(check for name in probes.here() for check in probes.judge(name, observed, lab.scenario))


@pytest.mark.parametrize("version", [4, 6])
def test_deferred_accept(lab, version):
    """S12, R6: the server's side opens when data comes; the kernel's sample of its handshake is none of the network."""
    conversation = Conversation(opening="deferred", exchanges=2, think_ns=20 * MS)
    observed = lab.converse(conversation, probes=probes.here(), connections=2, version=version)
    lab.check(check for name in probes.here() for check in probes.judge(name, observed, lab.scenario))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("serve", [True, False])
def test_connect_without_blocking(lab, version, serve):
    """C1: connect() returns at once; the connection is open, or refused, when the wait for its outcome ends."""
    here = [name for name in probes.here() if serve or name != "rtt"]  # a refused connection has no sample
    conversation = Conversation(opening="non-blocking", exchanges=2)
    observed = lab.converse(conversation, probes=here, connections=2, version=version, serve=serve)
    assert {connection.client.calls[0].error for connection in observed.connections} == {"EINPROGRESS"}
    lab.check(check for name in here for check in probes.judge(name, observed, lab.scenario))
