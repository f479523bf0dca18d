"""Round-trip times: what the probe `rtt` says, against what both applications know and what the kernel tells them.

R1 to R5 are rows of the corpus of known wrong numbers: see README.md. Those about grouping and filtering are in
test_live_rtt.py, those about room and exact sums in test_rtt_totals.py.
"""

from itertools import accumulate
from typing import NamedTuple

import numpy as np
import pytest
from support.lockstep import TcpInfo, conversing
from support.token_bucket import throttle

from lab import probes
from lab.ebpf.program import Program
from lab.ebpf.recorder import record
from lab.linux.grace_period import await_grace_period
from lab.observation import Observed, observing
from lab.probes.rtt.measure import Kind, folded
from lab.traffic.demo.conversation import Conversation
from lab.units import MS, SECOND
from lab.verdict import Bracket

SIZE = 375  # bytes of a message: one segment
both_versions = pytest.mark.parametrize("version", [4, 6])


def converse(lab, conversation, **how):
    """Hold conversations observed by the probe, and judge it."""
    observed = lab.converse(conversation, probes=["rtt"], **how)
    return observed, lab.judge("rtt", observed)


def row_of(observed, inode, kind, lport=None):
    """Return the one row of a host's sockets (with this local port)."""
    rows = folded(observed.recording.totals["rtt"])
    mine = (rows["netns"] == inode) & (rows["kind"] == kind)
    (row,) = rows[mine & (rows["lport"] == lport) if lport else mine]
    return row


@both_versions
@pytest.mark.parametrize("closer", ["client", "server", "both"])
def test_one_sample_for_each_message(lab, version, closer):
    """Each side takes one sample of the handshake and one of each message, and no time is longer than it took."""
    observed, _ = converse(lab, Conversation(exchanges=5, closer=closer, hold_ns=5 * MS), version=version)
    client = row_of(observed, lab.net.client.inode, Kind.RTT)
    assert client["count"] == 6


@both_versions
@pytest.mark.parametrize("how", ["close", "shutdown", "rst"])
def test_every_way_to_end(lab, version, how):
    """The last sample of ESTABLISHED is there however the connection ends."""
    converse(lab, Conversation(exchanges=3, how=how, linger_ns=20 * MS), version=version)


@both_versions
def test_handshake_only(lab, version):
    """Without data there is one sample on each side, the handshake's, and the client never receives in ESTABLISHED."""
    observed, _ = converse(lab, Conversation(exchanges=0), version=version)
    for host in (lab.net.client, lab.net.server):
        assert row_of(observed, host.inode, Kind.RTT)["count"] == 1


@both_versions
def test_the_peers_hesitation_is_not_the_network(lab, version):
    """A server that thinks for 100 ms delays its acknowledgement, by 40 ms perhaps, and never by all of that."""
    observed, _ = converse(lab, Conversation(exchanges=3, before_reply_ns=100 * MS), version=version)
    assert row_of(observed, lab.net.client.inode, Kind.RTT)["max_us"] * 1000 < 100 * MS


def test_mapped_addresses(lab):
    """R1: an IPv6 socket that serves IPv4 is told under its IPv4 addresses."""
    converse(lab, Conversation(exchanges=2), version=4, listen="::")


def test_large_messages(lab):
    """A message of many segments gives no more samples than it has segments."""
    converse(lab, Conversation(size_bits=8 * 100_000, exchanges=3))


def test_200_connections_at_once(lab):
    """Each connection has sums of its own."""
    observed, checks = converse(lab, Conversation(exchanges=2), connections=200)
    assert len(observed.connections) == 200
    assert sum(check.quantity == "RTT samples" for check in checks) == 400


def test_refused(lab):
    """A refused connection has no round trip: nothing is counted."""
    observed = lab.converse(Conversation(), probes=["rtt"], serve=False)
    assert not np.isin(observed.recording.totals["rtt"]["netns"], lab.net.inodes).any()


@both_versions
def test_a_pure_receiver_keeps_its_handshake(lab, version):
    """R5: who only receives takes no sample after the handshake, so its srtt stays what that was, however much comes."""
    with observing(lab.net, probes=["rtt"]) as observed, conversing(lab.net, version) as talk:
        for _ in range(20):
            talk.client.send(bytes(1000))
            talk.server.recv(1000)
    observed.connections += talk.connections
    lab.judge("rtt", observed)
    srtt, samples = (row_of(observed, lab.net.server.inode, kind) for kind in (Kind.SRTT, Kind.RTT))
    assert samples["count"] == 1
    assert srtt["count"] >= 20
    assert srtt["min_us"] == srtt["max_us"] == samples["max_us"]


@both_versions
def test_a_step_in_the_delay(lab, version):
    """R5: the delay of a request steps to 44 ms. The next sample shows all of it, the smoothed RTT an eighth of it at a time.

    A token bucket holds each request back until the bytes that went before have been paid for: what was sent in all, less the
    burst, cannot have left in less time than the rate allows. That is the least that the last request can have waited.
    """
    frame, rate, burst, slow = SIZE + 32 + 20 + 14, 10_000, 500, 8  # options and header of TCP, IPv4, Ethernet
    for host in (lab.net.client, lab.net.server):
        host.sysctl("ipv4/tcp_congestion_control", "reno")
    with observing(lab.net, probes=["rtt"]) as observed, conversing(lab.net, version) as talk:
        for _ in range(3):
            talk.exchange(SIZE)
        throttle(lab.net.client, rate, burst)
        for _ in range(slow):
            talk.exchange(SIZE)
        talk.server.send(b"!")  # what the last sample makes of the srtt shows with one more segment
        talk.client.recv(1)
    observed.connections += talk.connections
    calls = [call for call in talk.client.timeline.calls if call.result == SIZE]
    sends, recvs = ([call for call in calls if call.name == name][-slow:] for name in ("send", "recv"))
    left_ns = [sends[0].enter_ns + (number * frame - burst) * SECOND // rate for number in range(1, slow + 1)]
    least_ns = [max(0, left - send.exit_ns) for left, send in zip(left_ns, sends, strict=True)]
    most_ns = [recv.exit_ns - send.enter_ns for send, recv in zip(sends, recvs, strict=True)]
    connect = talk.client.timeline.find("connect")
    fast_ns = [recv.exit_ns - send.enter_ns for send, recv in zip(calls[0:6:2], calls[1:6:2], strict=True)]
    earlier_ns = max(connect.exit_ns - connect.enter_ns, *fast_ns)
    samples, srtt = (row_of(observed, lab.net.client.inode, kind) for kind in (Kind.RTT, Kind.SRTT))
    judge, flow = observed.judge(lab.scenario, "rtt"), str(talk.client.timeline.flow)
    slot = 15  # from 32.768 ms on
    slowest = Bracket(*(sum(ns >= 1000 << slot for ns in side) for side in (least_ns, most_ns)), slow - 1)
    largest = Bracket(max(least_ns), max(most_ns), max(least_ns))
    lagging = Bracket(max(smoothed(0, least_ns)), max(smoothed(earlier_ns, most_ns)), max(smoothed(0, least_ns)))
    lab.check(
        [
            *probes.judge("rtt", observed, lab.scenario),
            judge.duration(flow, "largest RTT sample after the step", largest, int(samples["max_us"]) * 1000, 1000),
            judge.count(flow, "RTT samples above 32 ms", slowest, int(samples["slots"][slot:].sum())),
            judge.duration(flow, "largest srtt after the step", lagging, int(srtt["max_us"]) * 1000, 1000 * slow),
        ]
    )


def smoothed(before_ns, samples_ns):
    """Return what each sample makes of the average: RFC 6298 (2.3)."""
    return list(accumulate(samples_ns, lambda srtt_ns, sample_ns: srtt_ns * 7 // 8 + sample_ns // 8, initial=before_ns))


class Exchange(NamedTuple):
    """What TCP_INFO says of the client before and after one request and its reply, and what the probe has added meanwhile."""

    before: TcpInfo
    after: TcpInfo
    srtt: np.ndarray
    samples: np.ndarray


def exchange(inode, program, talk):
    """Make one exchange, and take what it has added.

    A sample shows with the segment that follows: here with one more byte from the server.
    """
    program.take_totals()
    before = talk.client_info()
    talk.exchange(SIZE)
    talk.server.send(b"!")
    talk.client.recv(1)
    rows = folded(program.take_totals())
    srtt, samples = (rows[(rows["netns"] == inode) & (rows["kind"] == kind)] for kind in Kind)
    return Exchange(before, talk.client_info(), srtt, samples)


@both_versions
def test_the_kernel_says_the_same(lab, version):
    """The kernel's own TCP_INFO has the same numbers, of every exchange and exactly.

    A reply's first segment acknowledges the request; it sees the srtt from before, which TCP_INFO shows before the request. Those
    that follow see what TCP_INFO shows afterwards. From the single samples the estimator of RFC 6298 gives every srtt, so
    each sample is right to the microsecond; and the smallest is the kernel's min_rtt.
    """
    program, inode = Program.load("rtt"), lab.net.client.inode
    with record(programs={"rtt": program}):
        with conversing(lab.net, version) as talk:
            opened = folded(program.take_totals())
            exchanges = [exchange(inode, program, talk) for _ in range(50)]
        lab.net.quiesce()
    (handshake,) = opened[(opened["netns"] == inode) & (opened["kind"] == Kind.RTT)]
    smallest_us, srtt_times_8 = int(handshake["sum_us"]), int(handshake["sum_us"]) * 8
    for seen in exchanges:
        assert (seen.samples["count"].tolist(), seen.samples["unclear"].tolist()) == ([1], [0])
        srtt_us = [int(seen.srtt["min_us"][0]), int(seen.srtt["max_us"][0])]
        assert srtt_us == sorted([seen.before.rtt_us, seen.after.rtt_us])
        sample_us = int(seen.samples["sum_us"][0])
        srtt_times_8 += sample_us - (srtt_times_8 >> 3)
        assert seen.after.rtt_us == srtt_times_8 >> 3
        smallest_us = min(smallest_us, sample_us)
        assert seen.after.min_rtt_us == smallest_us


@both_versions
def test_without_options_of_tcp(lab, version):
    """Samples are found as well where neither time stamps nor SACK are used."""
    for host in (lab.net.client, lab.net.server):
        host.sysctl("ipv4/tcp_timestamps", 0)
        host.sysctl("ipv4/tcp_sack", 0)
    converse(lab, Conversation(exchanges=5), version=version)


@both_versions
def test_attached_in_the_middle(lab, version):
    """A connection that was open before has no sample of its handshake, none invented, and its srtt from the first segment on.

    Nor is it taken for one that an earlier recording has left open, whose place in the kernel's memory it may have.
    """
    program = Program.load("rtt")
    for _ in range(5):
        with conversing(lab.net, version) as talk:
            for _ in range(3):
                talk.exchange(SIZE)
            info = talk.client_info()
            with record(programs={"rtt": program}, devices=lab.net.devices) as recorder:
                for _ in range(4):
                    talk.exchange(SIZE)
                await_grace_period()
        observed = Observed(lab.net.inodes, recorder.recording)
        samples, srtt = (row_of(observed, lab.net.client.inode, kind) for kind in (Kind.RTT, Kind.SRTT))
        # The first reply's first segment is the first one seen: the sample that it carries shows with the second segment.
        assert samples["unclear"] == 0
        assert samples["count"] in {3, 4}
        assert srtt["min_us"] <= info.rtt_us <= srtt["max_us"]
