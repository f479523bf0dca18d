"""Scripted TCP against a kernel's TCP: a RST in each state, simultaneous open and close, floods.

Every probe is attached, and its values lie between the timestamps of the generator (lab/traffic/crafted/tcp_peer.py).
D1 to D3 and S1 are rows of the table in docs/truth.md.
"""

import time
from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest
from support.tcp_scripts import CLIENT_SCRIPTED, SERVER_SCRIPTED, SLOW

from lab import probes
from lab.arrays import UNKNOWN
from lab.linux.grace_period import await_backlogs
from lab.network.topology import Host, topology
from lab.observation import Observed
from lab.packet import ACK, SYN
from lab.probes.analyse.measure import Kind
from lab.probes.duration.measure import lifetimes
from lab.probes.flows.measure import Direction, merged
from lab.probes.rtt.measure import Kind as Estimate
from lab.probes.rtt.measure import folded
from lab.probes.states.measure import transitions
from lab.recording.recorder import record
from lab.tcp import SYN_TIMEOUT_NS, Ended, Side, State, address_text
from lab.traffic.crafted.script import FLAGS
from lab.traffic.crafted.tcp_peer import Peer
from lab.verdict import Bracket

ENDS = ("saddr", "daddr", "sport", "dport")
FLOOD, BACKLOG = 1000, 16
LETTERS = {Side.CLIENT: "c", Side.SERVER: "s"}  # of the sender, in a script


class Played(NamedTuple):
    """The scripts that were played, by the name of their case, and the recording of every probe."""

    cases: dict
    transcripts: dict
    heard: dict  # flags of the kernel's segments, by the client's port
    observed: Observed
    kernel: Host  # the host of the kernel's end
    scripted: Host

    def kernels_flow(self, transcript):
        """Return the flow from the side of the kernel's end."""
        addresses = (self.kernel.ipv4, self.kernel.ipv6)
        return transcript.flow if transcript.flow.laddr in addresses else transcript.flow.reversed()

    def unasked(self, transcript, word):
        """Count the retransmissions of the kernel that are not in the script, on a slow machine."""
        asked = sum(step.word[1:] == word and not step.sent for step in transcript.steps)
        return max(0, self.heard[transcript.flow.lport].count(FLAGS[word]) - asked)


@pytest.fixture(scope="module", params=[(4, "client"), (6, "client"), (4, "server"), (6, "server")], ids=str)
def played(request):
    """Play every script with one IP version and one scripted end, and record by all probes."""
    version, scripted = request.param
    cases = CLIENT_SCRIPTED if scripted == "client" else SERVER_SCRIPTED
    with topology() as net:
        observed = Observed(net.inodes)
        with record(*probes.here(), devices=net.devices) as recorder, Peer(net, scripted, version) as peer:
            transcripts = {
                name: peer.play(case.script, 30000 + number) for number, (name, case) in enumerate(cases.items())
            }
    observed.recording, observed.end_ns = (
        recorder.recording,
        max(transcript.over_ns for transcript in transcripts.values()),
    )
    hosts = (net.server, net.client) if scripted == "client" else (net.client, net.server)
    return Played(cases, transcripts, peer.heard, observed, *hosts)


def of_flow(rows, flow, ends=ENDS):
    """Return the rows of one direction of a connection; `ends` name the addresses and ports."""
    mine = (rows[ends[2]] == flow.lport) & (rows[ends[3]] == flow.rport)
    return [row for row in rows[mine] if address_text(row[ends[0]].tobytes()) == flow.laddr]


SOCKET = ("laddr", "raddr", "lport", "rport")


def between(low, high, transcript):
    """Return the time from one step to a later one, both observed at the same place."""
    shortest, longest = high.low_ns - transcript.arrived_ns(low), transcript.arrived_ns(high) - low.low_ns
    return Bracket(max(0, shortest), longest, high.low_ns - low.low_ns)


def at(step, transcript):
    """Return the bracket for the time of a step."""
    return Bracket.early(step.low_ns, transcript.arrived_ns(step))


def causes(case, transcript):
    """Yield the kernel's states, each with the step that causes it."""
    steps = iter(transcript.steps)
    step = next(steps)
    for word in case.states.split():
        state, cause = word.split(":")
        while step.word != cause:
            step = next(steps)
        yield State[state], step


def test_states(lab, played):
    """Each state is entered between the timestamps of the step that causes it; a RST ends it (S1: SYN_RECV too)."""
    judge, checks = played.observed.judge(lab.scenario, "states"), []
    rows = transitions(played.observed.recording.events["states"])
    for name, case in played.cases.items():
        transcript, expected = played.transcripts[name], list(causes(case, played.transcripts[name]))
        mine = of_flow(rows, played.kernels_flow(transcript), SOCKET)
        path = " ".join(state.name for state, _ in expected)
        checks.append(judge.equal(name, "states", path, " ".join(State(row["newstate"]).name for row in mine)))
        entered = None
        for row, (state, step) in zip(mine, expected, strict=False):
            checks.append(judge.duration(name, f"{state.name} entered at", at(step, transcript), int(row["time_ns"])))
            if state is State.ESTABLISHED and row["oldstate"] == State.SYN_RECV and case.states.startswith("SYN_RECV"):
                if case.syns_again or played.unasked(
                    transcript, "SA"
                ):  # the kernel takes no sample of a retransmitted segment
                    checks.append(judge.equal(name, "time in SYN_RECV", UNKNOWN, int(row["duration_ns"])))
                    entered = step
                    continue
                entered = next(it for it in transcript.steps if it.word == "sSA")
            if entered:
                bracket, took_ns = between(entered, step, transcript), int(row["duration_ns"])
                checks.append(judge.duration(name, f"time in {State(row['oldstate']).name}", bracket, took_ns, 1000))
            entered = step
    lab.check(checks)


def test_duration(lab, played):
    """D1 to D3: first SYN to first FIN or RST at both interfaces, kind of end, closer, retransmissions."""
    judge, checks = played.observed.judge(lab.scenario, "duration"), []
    rows = lifetimes(played.observed.recording.events["duration"], played.observed.end_ns)
    for name, case in played.cases.items():
        transcript = played.transcripts[name]
        mine = of_flow(rows, transcript.flow)
        checks.append(judge.equal(name, "interfaces", 2, len(mine)))
        syn = next(step for step in transcript.steps if step.word == "cS")
        # The first in the script can be the wrong one: if both close at once, the kernel's FIN leaves before the
        # crafted one.
        ends = {f"{LETTERS.get(case.closed_first)}{flags}" for flags in ("F", "R", "RA")}
        end = next((step for step in transcript.steps if step.word in ends), None)
        for row in mine:
            subject = f"{name} ({row['ifindex']})"
            checks.append(judge.equal(subject, "ended by", case.ended.name, Ended(row["ended"]).name))
            checks.append(
                judge.equal(subject, "closed first by", case.closed_first.name, Side(row["closed_first"]).name)
            )
            for what, again in (("syn", case.syns_again), ("fin", case.fins_again)):
                bracket = Bracket.early(again, again + played.unasked(transcript, what[0].upper()))
                checks.append(judge.count(subject, f"{what} again", bracket, int(row[f"{what}_retransmissions"])))
            checks.append(judge.duration(subject, "begun at", at(syn, transcript), int(row["start_ns"])))
            if end:
                lasted = int(row["duration_ns"])
                checks.append(judge.duration(subject, "duration", between(syn, end, transcript), lasted))
            else:
                checks.append(judge.equal(subject, "duration", UNKNOWN, int(row["duration_ns"])))
    lab.check(checks)


def test_packets(lab, played):
    """Each segment arrives at the other host's interface between the timestamps of its step, with its control bits."""
    judge, checks = played.observed.judge(lab.scenario, "packets"), []
    rows = played.observed.recording.events["packets"]
    for name, transcript in played.transcripts.items():
        there = played.kernels_flow(transcript)
        for host, flow, sent in ((played.kernel, there.reversed(), True), (played.scripted, there, False)):
            mine = of_flow(rows[rows["ifindex"] == host.ifindex], flow)
            steps = [step for step in transcript.steps if step.sent is sent and "(" not in step.word]
            flags = [FLAGS[step.word[1:]] for step in steps] if sent else played.heard[transcript.flow.lport]
            reported = [int(row["flags"]) for row in mine]
            checks.append(judge.equal(name, f"segments at {host.ifindex}", str(flags), str(reported)))
            for step in steps:
                times = [int(row["time_ns"]) for row in mine if row["flags"] == FLAGS[step.word[1:]]]
                bracket = at(step, transcript)
                inside = [time_ns for time_ns in times if bracket.low <= time_ns <= bracket.high] or times
                checks.append(judge.duration(name, f"{step.word} arrives at", bracket, inside[0]))
    lab.check(checks)


def test_flows(lab, played):
    """Each scripted segment is counted once at each interface.

    The kernel's segments are counted equally at both interfaces.
    """
    judge, checks = played.observed.judge(lab.scenario, "flows"), []
    rows = merged(played.observed.recording.totals["flows"], ("ifindex", "direction", *ENDS))
    for name, transcript in played.transcripts.items():
        there = played.kernels_flow(transcript)
        words = Counter(step.word[1:] for step in transcript.steps if step.sent)
        expected = {
            "packets": words.total(),
            "syns": words["S"] + words["SA"],
            "fins": words["F"],
            "rsts": words["R"] + words["RA"],
        }
        for flow, left, arrived in (
            (there.reversed(), played.scripted, played.kernel),
            (there, played.kernel, played.scripted),
        ):
            counted = []
            for host, direction in ((left, Direction.EGRESS), (arrived, Direction.INGRESS)):
                here = rows[(rows["ifindex"] == host.ifindex) & (rows["direction"] == direction)]
                counted.append({what: sum(int(row[what]) for row in of_flow(here, flow)) for what in expected})
            checks.append(judge.equal(name, f"left and arrived, {flow}", str(counted[0]), str(counted[1])))
            if left is played.scripted:
                checks.append(judge.equal(name, "sent by hand", str(expected), str(counted[0])))
    lab.check(checks)


def test_analyse_and_states_agree(played):
    """Two programs at one tracepoint report the same changes of the kernel's sockets."""
    events = played.observed.recording.events
    steps, changes = events["analyse"], events["states"]
    steps = steps[np.isin(steps["kind"], (Kind.CHANGED, Kind.OPENED)) & (steps["oldstate"] > 0)]
    counted = [
        Counter(zip(*(rows[field].tolist() for field in ("skaddr", "oldstate", new)), strict=True))
        for rows, new in (
            (steps[np.isin(steps["netns"], played.observed.inodes)], "state"),
            (changes[np.isin(changes["netns"], played.observed.inodes) & (changes["skaddr"] > 0)], "newstate"),
        )
    ]
    assert counted[0] == counted[1]
    assert counted[0]


def test_rtt(lab, played):
    """The kernel's estimate of a handshake whose last segment took 20 ms is that time."""
    name, *words = ("RST in ESTABLISHED", "sSA", "cA") if "RST in ESTABLISHED" in played.cases else SLOW
    transcript = played.transcripts[name]
    totals = folded(played.observed.recording.totals["rtt"])
    if played.unasked(transcript, "SA"):
        return  # the kernel retransmitted the SYN-ACK on a slow machine, so it took no sample
    (row,) = of_flow(totals[totals["kind"] == Estimate.SRTT], played.kernels_flow(transcript), SOCKET)
    sent, answered = (next(step for step in transcript.steps if step.word == word) for word in words)
    judge = played.observed.judge(lab.scenario, "rtt")
    counted = judge.equal(name, "estimates", 1, int(row["count"]))
    took_ns = int(row["sum_us"]) * 1000
    lab.check([counted, judge.duration(name, "estimate", between(sent, answered, transcript), took_ns, 1000)])


@pytest.mark.parametrize("version", [4, 6])
def test_flood(lab, version):
    """A SYN flood: connections that fit into the queue are half-open, others get no answer; no socket is reported."""
    net = lab.net
    net.server.sysctl("ipv4/tcp_syncookies", 0)
    ports = range(20_000, 20_000 + FLOOD)
    with (
        Peer(net, "client", version, backlog=BACKLOG) as peer,
        record(*probes.here(), devices=net.devices) as recorder,
    ):
        sent = peer.syns(ports)
        await_backlogs()
        end_ns = time.monotonic_ns()
        peer.listen()
        answered = {port for port, flags in peer.heard.items() if set(flags) == {SYN | ACK}}
    assert 0 < len(answered) < FLOOD
    events = recorder.recording.events
    rows = lifetimes(events["duration"], end_ns + 2 * SYN_TIMEOUT_NS)
    for host in (net.client, net.server):
        here = rows[rows["ifindex"] == host.ifindex]
        assert len(here) == FLOOD
        ended = {int(row["sport"]): Ended(row["ended"]) for row in here}
        assert ended == {port: Ended.OPEN if port in answered else Ended.TIMEOUT for port in ports}
        assert set(here["duration_ns"].tolist()) == {UNKNOWN}
    # TC at the sender's egress runs inside send().
    left = rows[rows["ifindex"] == net.client.ifindex]["start_ns"]
    before, after = np.array([sent[port] for port in ports]).T
    assert ((before <= left) & (left <= after)).all()
    came = events["packets"][events["packets"]["ifindex"] == net.server.ifindex]
    assert sorted(came["sport"].tolist()) == list(ports)
    assert not np.isin(events["states"]["rport"], ports).any()
