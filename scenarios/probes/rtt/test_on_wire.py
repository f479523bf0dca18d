"""Round-trip times on a wire that delays and loses: what the probe `rtt` says, against what the wire does."""

import pytest
from support.lockstep import conversing

from lab.network.conditions import Conditions
from lab.network.link_choice import wire
from lab.network.relay import Relay
from lab.network.topology import topology
from lab.observation import observing
from lab.probes.rtt.judge import checks
from lab.probes.rtt.measure import Kind, folded
from lab.traffic.demo.conversation import Conversation
from lab.units import MS
from lab.verdict import Bracket

both_versions = pytest.mark.parametrize("version", [4, 6])
ONE_WAY = Conditions(delay_ns=20 * MS)
SIZE = 375


@pytest.fixture
def net():
    """Two hosts and a wire that can do everything."""
    with topology(wire()) as net:
        yield net


@both_versions
def test_no_sample_is_shorter_than_the_wire(lab, version):
    """Each RTT, the handshake's included, and each average of them lasts at least both ways of the wire."""
    lab.net.conditions(ONE_WAY, ONE_WAY)
    observed = lab.converse(Conversation(exchanges=4), probes=["rtt"], version=version)
    lab.check(checks(observed, lab.scenario, least_ns=40 * MS))


@both_versions
def test_a_step_on_the_wire(lab, version):
    """R5: from the step on every single sample has all of it, however the smoothed RTT lags."""
    with observing(lab.net, probes=["rtt"]) as observed, conversing(lab.net, version) as talk:
        for _ in range(3):
            talk.exchange(SIZE)
        lab.net.conditions(ONE_WAY, ONE_WAY)
        for _ in range(6):
            talk.exchange(SIZE)
    observed.connections += talk.connections
    rows = folded(observed.recording.totals["rtt"])
    srtt, samples = (rows[(rows["netns"] == lab.net.client.inode) & (rows["kind"] == kind)][0] for kind in Kind)
    calls = [call for call in talk.client.timeline.calls if call.result == SIZE]
    most_ns = [recv.exit_ns - send.enter_ns for send, recv in zip(calls[::2], calls[1::2], strict=True)]
    judge, flow = observed.judge(lab.scenario, "rtt"), str(talk.client.timeline.flow)
    slow = Bracket(6, 6 + sum(ns >= 1000 << 15 for ns in most_ns[:3]), 6)
    # Five samples have reached the average when the reply to the last request comes, perhaps six.
    lagging = Bracket(int(40 * MS * (1 - (7 / 8) ** 5)), max(most_ns), int(40 * MS * (1 - (7 / 8) ** 6)))
    lab.check(
        [
            *checks(observed, lab.scenario),
            judge.count(flow, "RTT samples above 32 ms", slow, int(samples["slots"][15:].sum())),
            judge.duration(flow, "largest srtt after the step", lagging, int(srtt["max_us"]) * 1000, 6000),
        ]
    )


@both_versions
@pytest.mark.parametrize("time_stamps", [1, 0])
def test_a_lost_request(lab, version, time_stamps):
    """A request that is retransmitted has a sample by its time stamps, and without them none; none is invented or unclear."""
    with topology(Relay()) as net:  # netem drops none by its number
        for host in (net.client, net.server):
            host.sysctl("ipv4/tcp_timestamps", time_stamps)
        with observing(net, probes=["rtt"]) as observed, conversing(net, version) as talk:
            talk.exchange(SIZE)
            # One of the two may be an acknowledgement that the client had delayed.
            net.conditions(Conditions(drop=(1, 2)), Conditions())
            talk.exchange(SIZE)
            talk.exchange(SIZE)
    observed.connections += talk.connections
    judged = list(checks(observed, lab.scenario))
    flow = str(talk.client.timeline.flow)
    (number,) = (it.measured for it in judged if it.quantity == "RTT samples" and it.subject == flow)
    assert number == 3 + time_stamps
    # The truth counts on time stamps, without which nobody can say how often the server's reply is sent.
    doubtful = () if time_stamps else ("RTT samples", "sum of RTT samples")
    lab.check(check for check in judged if check.quantity not in doubtful)
