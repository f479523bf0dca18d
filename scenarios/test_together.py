"""All probes at once on the same 2,000 connections: nothing is lost, and whoever sees the same fact says the same of it.

L2: the loss is counted in every result, and here it is none. L1, L3: what all of them tell is in one order, by one clock.
"""

from collections import Counter

import numpy as np
import pytest

from lab import probes
from lab.demo.conversation import Conversation
from lab.observed import observe
from lab.packet import FIN, RST, SYN
from lab.probes import states
from lab.recording import CLOCK
from lab.round_trips import Kind as Estimate
from lab.round_trips import folded
from lab.steps import Kind, points
from lab.tcp import State
from lab.topology import topology

CONNECTIONS = 2000
FLOW = ("saddr", "daddr", "sport", "dport")
ENDS = ("netns", "laddr", "raddr", "lport", "rport")
SEGMENT = (*FLOW, "seq", "ack", "flags")


@pytest.fixture(scope="module")
def observed():
    """Hold the conversations once, for all of these tests."""
    with topology() as net:
        # An accept queue that overflows has the kernel reset connections that both applications believe in.
        net.server.sysctl("core/somaxconn", CONNECTIONS)
        conversation = Conversation()
        with observe(
            net, conversation, probes=list(probes.every()), connections=CONNECTIONS, concurrency=8
        ) as observed:
            pass
    return observed


@pytest.fixture
def seen(observed):
    """Each probe's events, and sums, of the two hosts' TCP: the machine's own left out."""
    events, totals = observed.recording.events, observed.recording.totals
    hosts, devices = list(observed.inodes), list(observed.recording.devices)
    return {
        "states": mine(events["states"], "netns", hosts),
        "analyse": mine(events["analyse"], "netns", hosts),
        "rtt": folded(mine(totals["rtt"], "netns", hosts)),
        "duration": mine(events["duration"], "ifindex", devices),
        "packets": mine(events["packets"], "ifindex", devices),
        "flows": mine(totals["flows"], "ifindex", devices),
    }


def mine(rows, name, values):
    return rows[np.isin(rows[name], values)]


def keys(rows, *names):
    """Each row's values under these names, as something that can be counted and sorted."""
    columns = [np.ascontiguousarray(rows[name]).view(np.uint8).reshape(len(rows), -1) for name in names]
    return np.ascontiguousarray(np.concatenate(columns, axis=1)).view(f"V{sum(c.shape[1] for c in columns)}")[:, 0]


def counted(rows, *names):
    """How many rows there are of each kind."""
    return Counter(keys(rows, *names).tolist())


def added(rows, what, *names):
    """Add up a column over each kind of row."""
    sums = Counter()
    for key, value in zip(keys(rows, *names).tolist(), rows[what].tolist(), strict=True):
        sums[key] += value
    return sums


def times_by_key(rows, *names):
    """Return times in order of key and time."""
    return rows["time_ns"][np.lexsort((rows["time_ns"], np.unique(keys(rows, *names), return_inverse=True)[1]))]


def opening_or_closing(rows):
    return rows[(rows["flags"] & (SYN | FIN | RST)) > 0]


def test_nothing_is_lost(observed):
    """L2: every probe counts what it could not tell, and it is nothing; the connections are all there."""
    recording = observed.recording
    assert len(observed.connections) == CONNECTIONS
    assert recording.lost == dict.fromkeys(probes.every(), 0)
    assert recording.withheld == dict.fromkeys(probes.every(), 0)


@pytest.mark.parametrize("probe", sorted(probes.every()))
def test_every_number_is_judged(lab, observed, probe):
    """Each probe's own judge finds nothing wrong, with all the others attached."""
    assert len(lab.judge(probe, observed)) >= CONNECTIONS


def test_one_order(observed):
    """L1, L3: events of all probes are in one order, by the clock that the applications read as well."""
    assert CLOCK == "CLOCK_MONOTONIC"
    merged = observed.recording.merged()
    assert (np.diff(merged["time_ns"].astype(np.int64)) >= 0).all()
    first = min(connection.client.calls[0].enter_ns for connection in observed.connections)
    assert merged["time_ns"][-1] <= observed.end_ns
    tcp = observed.recording.events["packets"]
    assert first <= tcp["time_ns"][0]


def test_packets_and_flows_count_the_same(seen):
    """XDP and TC ingress count each packet that came in, and its bytes: none is super-sized in these short conversations."""
    came_in = seen["flows"][(seen["flows"]["direction"] == 0) & (seen["flows"]["protocol"] == 6)]
    where = (*FLOW, "ifindex")
    assert counted(seen["packets"], *where) == added(came_in, "packets", *where)
    assert added(seen["packets"], "frame_length", *where) == added(came_in, "bytes", *where)
    assert added(seen["packets"], "payload_length", *where) == added(came_in, "payload_bytes", *where)


def test_packets_and_duration_see_the_same_segments(seen):
    """Each SYN, FIN and RST that XDP has seen comes to TC ingress, a little later."""
    xdp = opening_or_closing(seen["packets"])
    tc = seen["duration"][seen["duration"]["ingress"] == 1]
    where = (*SEGMENT, "ifindex")
    assert counted(xdp, *where) == counted(tc, *where)
    assert (times_by_key(xdp, *where) <= times_by_key(tc, *where)).all()


def test_what_leaves_one_host_reaches_the_other(seen):
    """Each SYN, FIN and RST at one host's egress is the other's at ingress, later."""
    left, arrived = (seen["duration"][seen["duration"]["ingress"] == ingress] for ingress in (0, 1))
    assert counted(left, *SEGMENT) == counted(arrived, *SEGMENT)
    assert (times_by_key(left, *SEGMENT) <= times_by_key(arrived, *SEGMENT)).all()


def test_flows_and_duration_count_the_same_segments(seen):
    """What the sums have of SYN and FIN is what was told one by one."""
    for bit, name in ((SYN, "syns"), (FIN, "fins")):
        for ingress in (0, 1):
            told = seen["duration"][(seen["duration"]["ingress"] == ingress) & (seen["duration"]["flags"] & bit > 0)]
            summed = seen["flows"][seen["flows"]["direction"] == (0 if ingress else 1)]
            where = (*FLOW, "ifindex")
            assert counted(told, *where) == +added(summed, name, *where)


def test_states_and_analyse_see_the_same_changes(seen):
    """Two programs at one tracepoint: the same changes of the same sockets."""
    change = ("skaddr", "netns", "oldstate", "newstate")
    steps = seen["analyse"]
    steps = steps[np.isin(steps["kind"], (Kind.CHANGED, Kind.OPENED)) & (steps["oldstate"] > 0)]
    changes = seen["states"][seen["states"]["skaddr"] > 0]
    renamed = steps.astype([(name if name != "state" else "newstate", steps.dtype[name]) for name in steps.dtype.names])
    assert counted(changes, *change) == counted(renamed, *change)


def test_rtt_and_analyse_see_the_same_segments(seen):
    """The kernel's estimate is taken once for each segment that an established socket receives."""
    steps, estimates = seen["analyse"], seen["rtt"]
    received = steps[(steps["kind"] == Kind.PROCESSED) & (steps["oldstate"] == 0)]
    assert len(received), points()
    smoothed = estimates[estimates["kind"] == Estimate.SRTT]
    assert counted(received, *ENDS) == added(smoothed, "count", *ENDS)


def test_states_frame_the_segments_on_the_interface(observed, seen):
    """A socket is in SYN_SENT before its SYN leaves, and ESTABLISHED after; in FIN_WAIT1 or LAST_ACK before its FIN leaves."""
    sent = seen["duration"][seen["duration"]["ingress"] == 0]
    inodes = {index: inode for index, (_, inode) in observed.recording.devices.items()}
    rows = states.transitions(seen["states"])
    entered = {
        (int(row["netns"]), row["laddr"].tobytes(), int(row["lport"]), int(row["newstate"])): int(row["time_ns"])
        for row in rows[::-1]  # of a state entered again, the first time
    }
    checked = 0
    for segment in sent:
        host = (inodes[int(segment["ifindex"])], segment["saddr"].tobytes(), int(segment["sport"]))
        time_ns = int(segment["time_ns"])
        if host[2] == observed.connections[0].client.flow.rport:
            continue  # the server's port is not one connection's alone
        if segment["flags"] & SYN:
            assert entered[*host, State.SYN_SENT] <= time_ns <= entered[*host, State.ESTABLISHED]
        elif segment["flags"] & FIN:
            closing = [entered.get((*host, state)) for state in (State.FIN_WAIT1, State.LAST_ACK)]
            assert min(time for time in closing if time) <= time_ns
        checked += 1
    assert checked >= 2 * CONNECTIONS
