"""Facts that two probes observe independently. All probes record the same traffic, so they must report the same values.

`FACTS` are functions of the result of `seen`. Each fails if two probes contradict each other.
"""

from collections import Counter, defaultdict
from contextlib import suppress

import numpy as np

from lab import probes
from lab.clock import CLOCK
from lab.errors import UnsupportedByKernel
from lab.packet import ACK, FIN, RST, SYN, TCP
from lab.probes.analyse.measure import Kind, joined, points
from lab.probes.layers.stages import At
from lab.probes.rtt.measure import Kind as Estimate
from lab.probes.rtt.measure import folded
from lab.probes.states.measure import transitions
from lab.tcp import State
from lab.traffic.demo.conversation import PORT

FLOW = ("saddr", "daddr", "sport", "dport")
ENDS = ("netns", "laddr", "raddr", "lport", "rport")
SEGMENT = (*FLOW, "seq", "ack", "flags")
PLACE = (*FLOW, "ifindex")
INGRESS, EGRESS = 0, 1
FRAME = 14 + 1500  # largest frame on the wire, in bytes


class Seen(dict):
    """Events and sums by probe. A probe that this kernel refuses raises `UnsupportedByKernel` with the reason."""

    def __missing__(self, name):
        """Raise `UnsupportedByKernel`, like loading the probe."""
        raise UnsupportedByKernel(probes.refusal(name) or f"{name} was not recorded")


def seen(recording, inodes):
    """Return each probe's events and sums for TCP on the two hosts, without duplicates and without other traffic."""
    events, totals = recording.events, recording.totals
    hosts, devices = list(inodes), list(recording.devices)
    found = Seen(
        states=_mine(transitions(events["states"]), "netns", hosts),
        analyse=_mine(joined(events["analyse"]), "netns", hosts),
        rtt=folded(_mine(totals["rtt"], "netns", hosts)),
        duration=_mine(events["duration"], "ifindex", devices),
        packets=_mine(events["packets"], "ifindex", devices),
        flows=_mine(totals["flows"], "ifindex", devices),
        inodes={index: inode for index, (_, inode) in recording.devices.items()},
        merged=recording.merged(),
    )
    if "layers" in events:
        found["layers"] = _mine(events["layers"], "netns", hosts)
    for name in ("packets", "flows"):
        found[name] = _mine(found[name], "protocol", [TCP])
    return found


def nothing_is_lost(recording):
    """L2: no probe lost an event, and the kernel withheld none."""
    assert recording.lost == dict.fromkeys(probes.here(), 0)
    assert recording.withheld == dict.fromkeys(probes.here(), 0)


def one_order(seen):
    """L1, L3: merged events of all probes are in order of time, on the clock that the applications read as well."""
    assert CLOCK == "CLOCK_MONOTONIC"
    assert (np.diff(seen["merged"]["time_ns"].astype(np.int64)) >= 0).all()


def packets_and_flows_count_the_same(seen):
    """XDP and TC ingress count the same packets and bytes. A packet above the MTU at XDP counts as several at TC."""
    whole = seen["packets"]
    came_in = seen["flows"][seen["flows"]["direction"] == INGRESS]
    headers = whole["frame_length"] - whole["payload_length"]
    pieces = np.maximum(1, -(-whole["payload_length"].astype(np.int64) // (FRAME - headers)))
    for name, values in (
        ("packets", pieces),
        ("bytes", whole["frame_length"] + (pieces - 1) * headers),
        ("payload_bytes", whole["payload_length"]),
    ):
        assert added(whole, values, *PLACE) == added(came_in, came_in[name], *PLACE), name


def packets_and_duration_see_the_same_segments(seen):
    """Each SYN, FIN and RST at XDP appears at TC ingress, no earlier."""
    xdp = seen["packets"][(seen["packets"]["flags"] & (SYN | FIN | RST)) > 0]
    tc = seen["duration"][seen["duration"]["ingress"] == 1]
    where = (*SEGMENT, "ifindex")
    assert counted(xdp, *where) == counted(tc, *where)
    assert (_times_by_key(xdp, *where) <= _times_by_key(tc, *where)).all()


def what_leaves_one_host_reaches_the_other(seen):
    """Each SYN, FIN and RST at one host's egress appears at the other host's ingress, no earlier."""
    left, arrived = (seen["duration"][seen["duration"]["ingress"] == ingress] for ingress in (0, 1))
    assert counted(left, *SEGMENT) == counted(arrived, *SEGMENT)
    assert (_times_by_key(left, *SEGMENT) <= _times_by_key(arrived, *SEGMENT)).all()


def flows_and_duration_count_the_same_segments(seen):
    """`flows` counts as many SYNs and FINs as `duration` reports one by one."""
    for bit, name in ((SYN, "syns"), (FIN, "fins")):
        for ingress, direction in ((0, EGRESS), (1, INGRESS)):
            single = seen["duration"][(seen["duration"]["ingress"] == ingress) & (seen["duration"]["flags"] & bit > 0)]
            summed = seen["flows"][seen["flows"]["direction"] == direction]
            assert counted(single, *PLACE) == +added(summed, summed[name], *PLACE)


def states_and_analyse_see_the_same_changes(seen):
    """Two programs at one tracepoint report the same changes of the same sockets."""
    change = ("skaddr", "netns", "oldstate", "newstate")
    steps = seen["analyse"]
    steps = steps[np.isin(steps["kind"], (Kind.CHANGED, Kind.OPENED)) & (steps["oldstate"] > 0)]
    changes = seen["states"][seen["states"]["minisock"] == 0]
    renamed = steps.astype([(name if name != "state" else "newstate", steps.dtype[name]) for name in steps.dtype.names])
    assert counted(changes, *change) == counted(renamed, *change)


def rtt_and_analyse_see_the_same_segments(seen):
    """`rtt` reads the kernel's estimate once for each segment that an established socket receives."""
    steps, estimates = seen["analyse"], seen["rtt"]
    received = steps[(steps["kind"] == Kind.PROCESSED) & (steps["oldstate"] == 0)]
    assert len(received), points()
    smoothed = estimates[estimates["kind"] == Estimate.SRTT]
    assert counted(received, *ENDS) == added(smoothed, smoothed["count"], *ENDS)


def states_frame_the_segments_on_the_interface(seen):
    """Each SYN leaves between SYN_SENT and ESTABLISHED or CLOSE; each FIN leaves after FIN_WAIT1 or LAST_ACK."""
    # By flow and by socket, since a flow can be used again: the first entry into each state.
    flows = defaultdict(lambda: defaultdict(dict))
    for row in seen["states"]:
        flow = (int(row["netns"]), *(row[name].tobytes() for name in ("laddr", "lport", "raddr", "rport")))
        flows[flow][int(row["socket"])].setdefault(int(row["newstate"]), int(row["time_ns"]))
    checked = 0
    for segment in seen["duration"][seen["duration"]["ingress"] == 0]:
        names = ("saddr", "sport", "daddr", "dport")
        sockets = flows[seen["inodes"][int(segment["ifindex"])], *(segment[name].tobytes() for name in names)].values()
        time_ns = int(segment["time_ns"])
        if segment["flags"] & (SYN | ACK) == SYN:
            spans = [(it.get(State.SYN_SENT), _first(it, State.ESTABLISHED, State.CLOSE)) for it in sockets]
        elif segment["flags"] & FIN:
            spans = [(_first(it, State.FIN_WAIT1, State.LAST_ACK), time_ns) for it in sockets]
        else:
            continue
        assert any(low and low <= time_ns <= high for low, high in spans), f"{time_ns} is in none of {spans}"
        checked += 1
    assert checked, "neither host opened or closed a connection"


def _first(entered, *states):
    """Return the earliest entry of a socket into one of these states, None if there is none."""
    return min((entered[state] for state in states if state in entered), default=None)


def layers_and_packets_see_the_same_segments(seen):
    """Each segment with data passes the driver, XDP and TC ingress, in this order.

    Only the port that both probes record counts.
    """
    xdp = seen["packets"][(seen["packets"]["sport"] == PORT) | (seen["packets"]["dport"] == PORT)]
    xdp = xdp[xdp["payload_length"] > 0]
    came, passed = (
        seen["layers"][(seen["layers"]["at"] == at) & (seen["layers"]["length"] > 0)] for at in (At.DEVICE_IN, At.TC_IN)
    )
    where = (*FLOW, "seq")
    assert counted(came, *where) == counted(xdp, *where) == counted(passed, *where)
    assert (_times_by_key(came, *where) <= _times_by_key(xdp, *where)).all()
    assert (_times_by_key(xdp, *where) <= _times_by_key(passed, *where)).all()


FACTS = (
    one_order,
    packets_and_flows_count_the_same,
    packets_and_duration_see_the_same_segments,
    what_leaves_one_host_reaches_the_other,
    flows_and_duration_count_the_same_segments,
    states_and_analyse_see_the_same_changes,
    rtt_and_analyse_see_the_same_segments,
    states_frame_the_segments_on_the_interface,
    layers_and_packets_see_the_same_segments,
)


def hold(seen):
    """Check every fact, except facts about a probe that this kernel refuses."""
    for fact in FACTS:
        with suppress(UnsupportedByKernel):
            fact(seen)


def counted(rows, *names):
    """Return the number of rows for each combination of these fields."""
    return Counter(_keys(rows, *names).tolist())


def added(rows, values, *names):
    """Return the sum of `values` for each combination of these fields."""
    sums = Counter()
    for key, value in zip(_keys(rows, *names).tolist(), values.tolist(), strict=True):
        sums[key] += value
    return sums


def _mine(rows, name, values):
    return rows[np.isin(rows[name], values)]


def _keys(rows, *names):
    """Return the bytes of these fields of each row, as keys that can be counted and sorted."""
    if not len(rows):
        return np.zeros(0, "V1")
    columns = [np.ascontiguousarray(rows[name]).view(np.uint8).reshape(len(rows), -1) for name in names]
    return np.ascontiguousarray(np.concatenate(columns, axis=1)).view(f"V{sum(c.shape[1] for c in columns)}")[:, 0]


def _times_by_key(rows, *names):
    """Return the times of the rows, sorted by key and time."""
    return rows["time_ns"][np.lexsort((rows["time_ns"], np.unique(_keys(rows, *names), return_inverse=True)[1]))]
