"""Every probe against injected delays: handshake, RTT, state times and durations, with the error of each.

A value outside its bracket fails everywhere. On the virtual clock only injected delays take time, so there a large
error fails, too.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from lab import probes
from lab.network.conditions import Conditions
from lab.network.link_choice import wire
from lab.network.topology import topology
from lab.observation import observing
from lab.probes.analyse.measure import joined
from lab.probes.duration.measure import lifetimes
from lab.probes.rtt.measure import Kind, folded
from lab.probes.states.measure import transitions
from lab.tcp import State
from lab.timeline import Connection
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse
from lab.units import MS
from lab.verdict import Bracket, Check

EVERY = probes.names()
ONE_WAY = Conditions(delay_ns=50 * MS)
ROUND_TRIP_NS = 2 * ONE_WAY.delay_ns
PLAIN = Conversation(exchanges=3)
SLOW = Conversation(exchanges=2, think_ns=30 * MS, before_reply_ns=25 * MS, hold_ns=50 * MS)
FIRST_PORT = 41000  # fixed, so that runs can be compared


@dataclass(frozen=True)
class Held:
    """One connection and its conversation."""

    connection: Connection
    plan: Conversation

    @property
    def established_ns(self):
        """Time that the injected delays keep the client in ESTABLISHED."""
        exchange_ns = self.plan.think_ns + ROUND_TRIP_NS + self.plan.before_recv_ns + self.plan.before_reply_ns
        return self.plan.exchanges * exchange_ns + self.plan.hold_ns

    def bracket(self, injected_ns, first="connect", last="close"):
        """Return a bracket: at least the injected delay, at most the time between two of the client's calls."""
        client = self.connection.client
        return Bracket.early(injected_ns, client.find(last).exit_ns - client.find(first).enter_ns)


@pytest.fixture(scope="module")
def held():
    """Record both conversations with each IP version on a wire of 50 ms each way, with all probes attached."""
    with topology(wire()) as net, observing(net, probes=probes.here()) as observed:
        for host in (net.client, net.server):
            host.sysctl("ipv4/tcp_congestion_control", "reno")  # bbr paces
        net.conditions(ONE_WAY, ONE_WAY)
        every = []
        for number, (version, plan) in enumerate((version, plan) for version in (4, 6) for plan in (PLAIN, SLOW)):
            with converse(net, plan, version=version, source_port=FIRST_PORT + number) as demo:
                pass
            every += [Held(connection, plan) for connection in demo.connections]
            net.quiesce()
        observed.connections += [one.connection for one in every]
    return observed, every


@pytest.mark.parametrize("probe", EVERY)
def test_every_number(lab, held, probe):
    """Every value of every probe is inside the bracket from both applications' calls."""
    observed, _ = held
    lab.judge(probe, observed)


def test_state_times(lab, held):
    """S1: SYN_SENT, SYN_RECV, ESTABLISHED and FIN_WAIT1 to TIME_WAIT last as long as the injected delays."""
    observed, every = held
    rows = transitions(observed.recording.events["states"])
    judge = observed.judge(lab.scenario, "states")
    client, server = observed.inodes

    def check(inode: int, one: Held, port: str, states: tuple[State, ...], bracket: Bracket, quantity: str) -> Check:
        mine = rows[(rows["netns"] == inode) & (rows[port] == one.connection.client.flow.lport)]
        measured_ns = int(mine["duration_ns"][np.isin(mine["oldstate"], states)].sum())
        return judge.duration(str(one.connection.client.flow), quantity, bracket, measured_ns, resolution_ns=1000)

    closing = (State.FIN_WAIT1, State.FIN_WAIT2, State.CLOSING)

    def checks() -> Iterator[Check]:
        for one in every:
            handshake = one.bracket(ROUND_TRIP_NS, last="connect")
            # The socket enters SYN_SENT before connect() has chosen the port; the row that leaves SYN_SENT has the
            # port.
            yield check(client, one, "lport", (State.SYN_SENT,), handshake, "time in SYN_SENT")
            served = one.bracket(ROUND_TRIP_NS, last="send" if one.plan.exchanges else "close")
            served = served._replace(
                high=one.connection.server.find("accept").exit_ns - one.connection.client.calls[0].enter_ns
            )
            yield check(server, one, "rport", (State.SYN_RECV,), served, "time in SYN_RECV")
            yield check(
                client, one, "lport", (State.ESTABLISHED,), one.bracket(one.established_ns), "time in ESTABLISHED"
            )
            fin_ns = observed.end_ns - one.connection.client.find("close").enter_ns
            closing_bracket = Bracket.early(ROUND_TRIP_NS, fin_ns)
            yield check(client, one, "lport", closing, closing_bracket, "time from FIN_WAIT1 to TIME_WAIT")

    lab.exact(checks())


def test_durations(lab, held):
    """D1: first SYN to first FIN at the client's interface is the time of handshake and conversation."""
    observed, every = held
    judge = observed.judge(lab.scenario, "duration")
    (ifindex,) = (index for index, (_, inode) in observed.recording.devices.items() if inode == observed.inodes[0])
    rows = lifetimes(observed.recording.events["duration"], observed.end_ns)
    rows = rows[rows["ifindex"] == ifindex]
    lab.exact(
        judge.duration(
            str(one.connection.client.flow),
            "first SYN to first FIN",
            one.bracket(ROUND_TRIP_NS + one.established_ns),
            int(rows["duration_ns"][rows["sport"] == one.connection.client.flow.lport].sum()),
        )
        for one in every
    )


def test_round_trip_times(lab, held):
    """R4, R5: without application delays, every RTT sample of the client and the srtt are the wire's round trip."""
    observed, every = held
    judge = observed.judge(lab.scenario, "rtt")
    rows = folded(observed.recording.totals["rtt"])
    rows = rows[rows["netns"] == observed.inodes[0]]

    def checks() -> Iterator[Check]:
        for one in every:
            flow = one.connection.client.flow
            for kind, what in ((Kind.SRTT, "srtt"), (Kind.RTT, "RTT sample")):
                (row,) = rows[(rows["lport"] == flow.lport) & (rows["kind"] == kind)]
                bracket = one.bracket(ROUND_TRIP_NS)
                yield judge.duration(str(flow), f"smallest {what}", bracket, int(row["min_us"]) * 1000, 1000)
                if one.plan is PLAIN:
                    yield judge.duration(str(flow), f"largest {what}", bracket, int(row["max_us"]) * 1000, 1000)

    lab.exact(checks())


def test_connect_times(lab, held):
    """A2: the client's connect time is the wire's round trip."""
    observed, every = held
    judge = observed.judge(lab.scenario, "analyse")
    rows = joined(observed.recording.events["analyse"])
    rows = rows[(rows["netns"] == observed.inodes[0]) & (rows["state"] == State.ESTABLISHED)]
    lab.exact(
        judge.duration(
            str(one.connection.client.flow),
            "connect time",
            one.bracket(ROUND_TRIP_NS, last="connect"),
            int(rows["connect_ns"][rows["lport"] == one.connection.client.flow.lport].max()),
        )
        for one in every
    )
