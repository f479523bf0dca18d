"""Every network: the applications talk, and each probe that can watch there reports what they have done.

Where there is a wire, its log is the second truth. Elsewhere the truth is that of the applications and the hosts'
counters: the judges of the wire's log have nothing to judge.
"""

import pytest

from lab import probes
from lab.network.description import NETWORKS
from lab.network.relay import Relay
from lab.network.topology import topology
from lab.plain_view import as_plain
from lab.traffic.demo.conversation import Conversation
from lab.units import MS

ABOUT = Conversation(hold_ns=10 * MS, before_reply_ns=5 * MS, exchanges=2, size_bits=80_000, reply_bits=160_000)
# A link with a log would see one direction of `asymmetric` only.
WITH_LOG = [name for name, it in NETWORKS.items() if it.subnets[0].kind == "wire" and name != "asymmetric"]


@pytest.fixture
def net(request):
    """Build the network that a test names; its wire, if there is one, keeps a log."""
    with topology(Relay() if request.param in WITH_LOG else None, network=request.param) as net:
        yield net


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("net", NETWORKS, indirect=True)
def test_conversation(lab, request, version):
    """All probes at once, on both hosts, tell the truth about the same connection (Q6: `layers` behind NAT as well)."""
    name = request.node.callspec.params["net"]
    observed = lab.converse(ABOUT, probes=probes.here(), version=version)
    assert (observed.wire is not None) == (name in WITH_LOG)
    for probe in probes.here():
        lab.judge(probe, as_plain(observed, lab.net))
