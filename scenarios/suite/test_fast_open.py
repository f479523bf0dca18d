"""TCP Fast Open (RFC 7413): the first request is in the SYN, and the server may reply before the handshake has ended."""

import pytest

from lab import probes
from lab.network.conditions import Conditions
from lab.network.relay import Relay
from lab.network.topology import topology
from lab.observation import observe
from lab.traffic.demo.conversation import Conversation
from lab.units import MS

CLOSERS = pytest.mark.parametrize("closer", ["client", "server", "both"])
REPLIES = pytest.mark.parametrize("reply_after_ns", [0, 15 * MS])
SLOW = Conditions(delay_ns=10 * MS)


def judged(lab, observed):
    lab.check(check for name in probes.here() for check in probes.judge(name, observed, lab.scenario))


@pytest.mark.parametrize("version", [4, 6])
@REPLIES
@CLOSERS
def test_data_in_the_syn(lab, version, reply_after_ns, closer):
    """Q3, C1: the handshake has its own time at both ends, and no layer is negative."""
    conversation = Conversation(opening="fast-open", exchanges=2, before_reply_ns=reply_after_ns, closer=closer)
    judged(lab, lab.converse(conversation, probes=probes.here(), version=version, connections=2))


@REPLIES
@pytest.mark.parametrize(
    ("closer", "how"),
    [("client", "close"), ("client", "shutdown"), ("client", "rst"), ("server", "close"), ("both", "close")],
)
def test_a_reply_before_the_end_of_the_handshake(lab, reply_after_ns, closer, how):
    """S12: SYN_RECV lasts from the SYN to the final ACK, also where the ACK has a sample of the reply."""
    conversation = Conversation(opening="fast-open", before_reply_ns=reply_after_ns, closer=closer, how=how)
    with topology(Relay()) as net:
        net.conditions(SLOW, SLOW)
        with observe(net, conversation, probes=probes.here(), connections=2) as observed:
            pass
    judged(lab, observed)


def test_a_lost_syn(lab):
    """The SYN that is sent again has no data (tcp_connect()): the handshake is an ordinary one."""
    with topology(Relay()) as net:
        net.conditions(Conditions(drop=(1,)), Conditions())
        with observe(net, Conversation(opening="fast-open"), probes=probes.here()) as observed:
            pass
    judged(lab, observed)
