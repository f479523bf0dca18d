"""The probe `rtt` on real connections: its samples against the logs of both applications and the kernel's TCP_INFO.

R1 to R5 are rows of the corpus of known wrong numbers in docs/truth.md. Tests of grouping and filters are in
test_command.py, tests of room and exact sums in test_totals.py.
"""

from itertools import accumulate
from typing import NamedTuple

import numpy as np
import pytest
from support.injected_delays import throttle
from support.lockstep import TcpInfo, conversing

from lab import probes
from lab.ebpf.program import Program
from lab.linux.grace_period import await_grace_period
from lab.observation import Observed, observing
from lab.probes.rtt.measure import Kind, folded
from lab.recording.recorder import record
from lab.traffic.demo.conversation import Conversation
from lab.units import MS, SECOND
from lab.verdict import Bracket

SIZE = 375  # bytes of a message: one segment
both_versions = pytest.mark.parametrize("version", [4, 6])


def converse(lab, conversation, **how):
    """Hold conversations with the probe attached, and judge it; return the observation and the checks."""
    observed = lab.converse(conversation, probes=["rtt"], **how)
    return observed, lab.judge("rtt", observed)


def row_of(observed, inode, kind, lport=None):
    """Return the only row of a host's sockets, or of its socket with this local port."""
    rows = folded(observed.recording.totals["rtt"])
    of_host = (rows["netns"] == inode) & (rows["kind"] == kind)
    (row,) = rows[of_host & (rows["lport"] == lport) if lport else of_host]
    return row


@both_versions
@pytest.mark.parametrize("closer", ["client", "server", "both"])
def test_one_sample_for_each_message(lab, version, closer):
    """Each side has one sample of the handshake and one of each message, and each sample is in its bracket."""
    observed, _ = converse(lab, Conversation(exchanges=5, closer=closer, hold_ns=5 * MS), version=version)
    client = row_of(observed, lab.net.client.inode, Kind.RTT)
    assert client["count"] == 6


@both_versions
@pytest.mark.parametrize("how", ["close", "shutdown", "rst"])
def test_every_way_to_end(lab, version, how):
    """The last sample of ESTABLISHED is counted, whether the connection ends by close(), shutdown() or RST."""
    converse(lab, Conversation(exchanges=3, how=how, linger_ns=20 * MS), version=version)


@both_versions
def test_handshake_only(lab, version):
    """Without data each side has one sample, the handshake's."""
    observed, _ = converse(lab, Conversation(exchanges=0), version=version)
    for host in (lab.net.client, lab.net.server):
        assert row_of(observed, host.inode, Kind.RTT)["count"] == 1


@both_versions
def test_a_slow_reply_is_not_in_the_rtt(lab, version):
    """If the server replies after 100 ms, its kernel acknowledges before (delayed ACK): the RTT is below 100 ms."""
    observed, _ = converse(lab, Conversation(exchanges=3, before_reply_ns=100 * MS), version=version)
    assert row_of(observed, lab.net.client.inode, Kind.RTT)["max_us"] * 1000 < 100 * MS


def test_mapped_addresses(lab):
    """R1: an IPv6 socket that serves IPv4 is reported with its IPv4 addresses."""
    converse(lab, Conversation(exchanges=2), version=4, listen="::")


def test_large_messages(lab):
    """A message of many segments has at most one sample per segment."""
    converse(lab, Conversation(size_bits=8 * 100_000, exchanges=3))


def test_200_connections_at_once(lab):
    """Each connection has its own totals."""
    observed, checks = converse(lab, Conversation(exchanges=2), connections=200)
    assert len(observed.connections) == 200
    assert sum(check.quantity == "RTT samples" for check in checks) == 400


def test_refused(lab):
    """A refused connection has no sample."""
    observed = lab.converse(Conversation(), probes=["rtt"], serve=False)
    assert not np.isin(observed.recording.totals["rtt"]["netns"], lab.net.inodes).any()


@both_versions
def test_a_pure_receiver_keeps_the_srtt_of_its_handshake(lab, version):
    """R5: a side that sends nothing has no sample after the handshake, so its srtt does not change."""
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
    """R5: the delay of a request steps to 44 ms. The next sample has all of it, the srtt an eighth of each sample.

    A token bucket (tbf) delays the requests: the bytes sent so far, less the burst, take at least bytes / rate seconds
    to leave. This is the lower bound of each request's delay.
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
        talk.server.send(b"!")  # the srtt with the last sample is recorded with one more segment
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
    largest = Bracket.early(max(least_ns), max(most_ns))
    lagging = Bracket.early(max(smoothed(0, least_ns)), max(smoothed(earlier_ns, most_ns)))
    lab.check(
        [
            *probes.judge("rtt", observed, lab.scenario),
            judge.duration(flow, "largest RTT sample after the step", largest, int(samples["max_us"]) * 1000, 1000),
            judge.count(flow, "RTT samples above 32 ms", slowest, int(samples["slots"][slot:].sum())),
            judge.duration(flow, "largest srtt after the step", lagging, int(srtt["max_us"]) * 1000, 1000 * slow),
        ]
    )


def smoothed(before_ns, samples_ns):
    """Return the average before the samples and after each of them: RFC 6298 (2.3)."""
    return list(accumulate(samples_ns, lambda srtt_ns, sample_ns: srtt_ns * 7 // 8 + sample_ns // 8, initial=before_ns))


class Exchange(NamedTuple):
    """The client's TCP_INFO before and after one request with its reply, and the totals added in between."""

    before: TcpInfo
    after: TcpInfo
    srtt: np.ndarray
    samples: np.ndarray


def exchange(inode, program, talk):
    """Hold one exchange; return its TCP_INFO and the totals that it added.

    A sample is counted with the next segment: here with one more byte from the server.
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
def test_tcp_info_has_the_same_numbers(lab, version):
    """The kernel's TCP_INFO has exactly the same numbers for every exchange.

    - The first segment of a reply acknowledges the request. The probe reads the srtt before that, as in TCP_INFO before
      the request.
    - Later segments have the srtt of TCP_INFO after the reply.
    - The estimator of RFC 6298 computes every srtt from the single samples, so each sample is exact to the microsecond.
    - The smallest sample is the kernel's min_rtt.
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
def test_without_tcp_options(lab, version):
    """Without time stamps and SACK the samples are the same."""
    for host in (lab.net.client, lab.net.server):
        host.sysctl("ipv4/tcp_timestamps", 0)
        host.sysctl("ipv4/tcp_sack", 0)
    converse(lab, Conversation(exchanges=5), version=version)


@both_versions
def test_attached_in_the_middle(lab, version):
    """A connection that was open before has no sample of its handshake; its srtt is counted from the first segment.

    The probe does not mix it up with a socket of an earlier recording at the same kernel address.
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
        # The probe first sees the first segment of the first reply; its sample is counted with the second segment.
        assert samples["unclear"] == 0
        assert samples["count"] in {3, 4}
        assert srtt["min_us"] <= info.rtt_us <= srtt["max_us"]
