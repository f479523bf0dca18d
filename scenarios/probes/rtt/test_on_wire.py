"""The probe `rtt` on a wire with delay and loss: its samples against the conditions of the wire."""

import pytest
from support.lockstep import conversing

from lab.network.conditions import Conditions
from lab.network.link_choice import wire
from lab.network.relay import Relay
from lab.network.topology import topology
from lab.observation import observe, observing
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
    """Two hosts and a wire that supports every condition."""
    with topology(wire()) as net:
        yield net


@both_versions
def test_no_sample_is_shorter_than_the_wire(lab, version):
    """Each RTT sample, including the handshake's, and each srtt is at least the delay of both directions."""
    lab.net.conditions(ONE_WAY, ONE_WAY)
    observed = lab.converse(Conversation(exchanges=4), probes=["rtt"], version=version)
    lab.check(checks(observed, lab.scenario, least_ns=40 * MS))


@both_versions
def test_a_step_on_the_wire(lab, version):
    """R5: after a step in the delay each single sample has the full delay, while the smoothed RTT lags."""
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
    slow = Bracket.early(6, 6 + sum(ns >= 1000 << 15 for ns in most_ns[:3]))
    # When the reply to the last request arrives, the average contains five or six samples with the delay.
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
    """A retransmitted request has a sample if TCP time stamps are on, otherwise none; no sample is unclear."""
    with topology(Relay()) as net:  # netem cannot drop a frame by its number
        for host in (net.client, net.server):
            host.sysctl("ipv4/tcp_timestamps", time_stamps)
        with observing(net, probes=["rtt"]) as observed, conversing(net, version) as talk:
            talk.exchange(SIZE)
            # One of the two dropped frames may be a delayed acknowledgement of the client.
            net.conditions(Conditions(drop=(1, 2)), Conditions())
            talk.exchange(SIZE)
            talk.exchange(SIZE)
    observed.connections += talk.connections
    judged = list(checks(observed, lab.scenario))
    flow = str(talk.client.timeline.flow)
    (number,) = (it.measured for it in judged if it.quantity == "RTT samples" and it.subject == flow)
    assert number == 3 + time_stamps
    # The truth assumes time stamps. Without them the number of the server's samples is unknown.
    doubtful = () if time_stamps else ("RTT samples", "sum of RTT samples")
    lab.check(check for check in judged if check.quantity not in doubtful)


@both_versions
@pytest.mark.parametrize("network", ["no-timestamps", "wire"])
def test_a_request_that_is_sent_again(lab, version, network):
    """Without TCP time stamps it has no sample, with them it has one: the truth knows which network it is."""
    with topology(Relay(), network=network) as net:
        net.conditions(Conditions(drop=(3,)), Conditions())
        with observe(net, Conversation(exchanges=2), probes=["rtt"], version=version) as observed:
            pass
    assert observed.wire.stream(observed.connections[0].client.flow).again
    lab.check(checks(observed, lab.scenario))


@both_versions
@pytest.mark.parametrize("network", ["no-timestamps", "wire"])
def test_a_syn_that_arrives_twice(lab, version, network):
    """The kernel then sends its SYN-ACK twice, and takes no sample of it (Karn's algorithm) without TCP time stamps."""
    with topology(Relay(), network=network) as net:
        net.conditions(Conditions(duplicate=1.0), Conditions())
        how = {"version": version, "connections": 8, "concurrency": 1}
        with observe(net, Conversation(exchanges=0), probes=["rtt"], **how) as observed:
            pass
    assert all(on_wire.syn_acks > 1 for _, on_wire in observed.with_wire())
    lab.check(checks(observed, lab.scenario))
