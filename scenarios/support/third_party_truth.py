"""Probes against what the programs at both ends, which stamp none of their calls, say of a connection in words of their own."""

from dataclasses import dataclass

import numpy as np

from lab.packet import distinct_bytes
from lab.probes.analyse.measure import Kind, joined
from lab.probes.duration.measure import lifetimes
from lab.probes.flows import measure
from lab.probes.flows.measure import Direction
from lab.probes.rtt.measure import Kind as Estimate
from lab.probes.rtt.measure import folded
from lab.probes.states.measure import transitions
from lab.tcp import Ended, Flow, Side, State
from lab.truth.volumes import segments_sent
from lab.verdict import Bracket
from support import kernel_abilities

MTU = 1500
_ENDPOINTS = ("saddr", "daddr", "sport", "dport")

# RFC 9293, 3.3.2, as the kernel's sockets come to it: who closes first, who second, and both at once.
OPENS = {"client": "SYN_SENT ESTABLISHED", "server": "SYN_RECV ESTABLISHED"}
FIRST, AT_ONCE = "FIN_WAIT1 FIN_WAIT2 TIME_WAIT", "FIN_WAIT1 CLOSING TIME_WAIT"
SECOND = "CLOSE_WAIT LAST_ACK CLOSE"
# A RST comes at any time. When data comes to a minisock in place of the peer's FIN, no further row does (lab/probes/states/cli.py).
RESETS = {"CLOSE", "FIN_WAIT1 CLOSE", "FIN_WAIT1 FIN_WAIT2 CLOSE", "FIN_WAIT1 FIN_WAIT2", "CLOSE_WAIT CLOSE"}


@dataclass(frozen=True)
class End:
    """One program of a connection, and what it did.

    `pids` are its processes, `opened_ns` the most that it can have taken from the SYN until this side was connected (nanoseconds),
    `written` its bytes, and `read` those of them that the other side has read (None: not told for each connection).
    """

    comm: str
    pids: set[int]
    opened_ns: int
    written: int | None = None
    read: Bracket | None = None


@dataclass(frozen=True)
class Told:
    """A connection as it is known from outside; times in nanoseconds.

    `within` are stamps before the client began and after it had ended, `duration` is from the first SYN to the first FIN or RST,
    `closers` are the sides that may have been first, `ended` how.
    """

    flow: Flow
    client: End
    server: End
    within: tuple[int, int]
    duration: Bracket
    closers: tuple[str, ...]
    ended: tuple[Ended, ...] = (Ended.FIN,)

    @property
    def sides(self):
        """Both ends, each with its own flow first and the other end."""
        yield "client", self.flow, self.client, self.server
        yield "server", self.flow.reversed(), self.server, self.client


def exactly(value):
    return Bracket(value, value, value)


def upto(value):
    return Bracket(0, value, value // 2)


def checks(observed, scenario, connections):
    """Yield every check of what was recorded against what is told of these connections."""
    for judged in (_durations, _flows, _steps, _states, _round_trips):
        yield from judged(observed, scenario, connections)


def _durations(observed, scenario, connections):
    judge = observed.judge(scenario, "duration")
    rows = lifetimes(observed.recording.events["duration"], observed.end_ns)
    for told in connections:
        subject, (began_ns, ended_ns) = str(told.flow), told.within
        mine = rows[[Flow.of(row) == told.flow for row in rows]]
        yield judge.equal(subject, "interfaces that saw it", len(observed.recording.devices), len(mine))
        for row in mine:
            yield judge.duration(subject, "first SYN to first FIN or RST", told.duration, int(row["duration_ns"]))
            yield judge.duration(subject, "first SYN at", Bracket(began_ns, ended_ns, began_ns), int(row["start_ns"]))
            yield judge.one_of(subject, "end", [end.name for end in told.ended], Ended(row["ended"]).name)
            yield judge.one_of(subject, "closed first", list(told.closers), Side(row["closed_first"]).name.lower())
            yield judge.duration(subject, "SYN to SYN-ACK", upto(told.client.opened_ns), int(row["synack_ns"]))


def _flows(observed, scenario, connections):
    """Compare data by direction, as it left one host and as it came to the other."""
    judge = observed.judge(scenario, "flows")
    totals = observed.recording.totals["flows"]
    sums = {}
    for row in measure.merged(totals[totals["version"] > 0], (*measure.PLACE, *_ENDPOINTS)):
        sums[int(row["ifindex"]), Direction(row["direction"]), Flow.of(row)] = row
    indexes = {inode: index for index, (_, inode) in observed.recording.devices.items()}
    here, there = (indexes[inode] for inode in observed.inodes)
    stages = {"client": (here, there, observed.sent[0]), "server": (there, here, observed.sent[1])}
    for told in connections:
        for role, flow, end, _ in told.sides:
            left_at, arrives_at, counters = stages[role]
            left, arrived = sums[left_at, Direction.EGRESS, flow], sums[arrives_at, Direction.INGRESS, flow]
            again = counters.retransmitted * MTU
            for where, row in (("left", left), ("arrived", arrived)):
                opened = Bracket(1, 1 + counters.retransmitted_syns, 1)
                yield judge.count(str(flow), f"SYN that {where}", opened, int(row["syns"]))
                if end.written is not None:
                    data = Bracket(end.read.low, end.written + again, end.written)
                    yield judge.count(str(flow), f"payload bytes that {where}", data, int(row["payload_bytes"]))
    for host, (index, _, counters) in stages.items():
        left = [row for (at, way, _), row in sums.items() if (at, way) == (index, Direction.EGRESS)]
        packets = sum(int(row["packets"]) for row in left)
        yield judge.count(f"the {host}'s host", "TCP packets sent", segments_sent(counters), packets)


def _steps(observed, scenario, connections):
    """Compare the owner of each step, and what was sent and received: by calls, by TCP for them, in segments."""
    judge = observed.judge(scenario, "analyse")
    rows = joined(observed.recording.events["analyse"])
    rows = rows[rows["skaddr"] > 0]  # without packets that came when the socket was gone
    # The packets that make a connection come to a listener, and are the connection's all the same.
    sockets = _by_flow(rows, rows["socket"][(rows["state"] == State.LISTEN) & (rows["kind"] != Kind.ARRIVED)], observed)
    for told in connections:
        for role, flow, end, other in told.sides:
            rows, subject = sockets[flow], str(flow)
            yield judge.equal(subject, "owner", "as told", _owner(rows, end))
            if role == "client":
                connecting = rows[rows["state"] == State.ESTABLISHED]["connect_ns"][-1]
                yield judge.duration(subject, "connect time", upto(end.opened_ns), int(connecting))
            if end.written is not None:
                if kernel_abilities.is_told():
                    yield judge.count(subject, "bytes taken by TCP", exactly(end.written), results(rows, Kind.SENT))
                # What sendfile() sends is no call's.
                by_calls = Bracket(0, end.written, end.written)
                yield judge.count(subject, "bytes sent by calls", by_calls, results(rows, Kind.SEND))
                received = (
                    {Kind.RECEIVED: "TCP", Kind.RECEIVE: "calls"}
                    if kernel_abilities.is_told()
                    else {Kind.RECEIVE: "calls"}
                )
                for kind, who in received.items():
                    yield judge.count(subject, f"bytes returned by {who}", other.read, results(rows, kind))
                data = rows[(rows["kind"] == Kind.ARRIVED) & (rows["length"] > 0)]
                reached = distinct_bytes(data["seq"], data["length"])
                arrived = Bracket(other.read.low, other.written, other.written)
                yield judge.count(subject, "bytes that reached TCP", arrived, reached)


def _states(observed, scenario, connections):
    judge = observed.judge(scenario, "states")
    rows = transitions(observed.recording.events["states"])
    sockets = _by_flow(rows, rows["socket"][rows["newstate"] == State.LISTEN], observed)
    for told in connections:
        for role, flow, end, _ in told.sides:
            rows, subject = sockets[flow], str(flow)
            sequence = " ".join(State(state).name for state in rows["newstate"])
            yield judge.one_of(subject, "state sequence", _sequences(told, role), sequence)
            # Of what a server accepts the owner is known when it closes: when a RST does, nobody has told.
            reset = role == "server" and Ended.RST in told.ended
            yield judge.one_of(subject, "owner", ["as told", "unknown"][: 1 + reset], _owner(rows, end))
            began_ns, ended_ns = told.within[0], observed.end_ns
            for row in rows:
                when = Bracket(began_ns, ended_ns, began_ns)
                yield judge.duration(subject, f"{State(row['newstate']).name} entered at", when, int(row["time_ns"]))
            took = dict(zip(rows["oldstate"].tolist(), rows["duration_ns"].tolist(), strict=True))
            opening = State.SYN_SENT if role == "client" else State.SYN_RECV
            yield judge.duration(subject, f"time in {opening.name}", upto(end.opened_ns), took[opening], 1000)
            # Either side comes to ESTABLISHED after the SYN, and leaves it no later than the first FIN has arrived.
            most = Bracket(0, ended_ns - began_ns, told.duration.low)
            yield judge.duration(subject, "time in ESTABLISHED", most, took[State.ESTABLISHED])


def _round_trips(observed, scenario, connections):
    judge = observed.judge(scenario, "rtt")
    rows = folded(observed.recording.totals["rtt"])
    samples = {Flow.of(row, "l", "r"): row for row in rows if row["kind"] == Estimate.RTT}
    for told in connections:
        for _, flow, end, _ in told.sides:
            for name, most_ns in (("min_us", end.opened_ns), ("max_us", observed.end_ns - told.within[0])):
                measured_ns = int(samples[flow][name]) * 1000
                yield judge.duration(str(flow), f"RTT samples' {name}", upto(most_ns), measured_ns, 1000)


def _sequences(told, role):
    """States that this side's socket comes to, given who may have closed first."""
    endings = set()
    for closer in told.closers:
        endings |= {FIRST, AT_ONCE} if closer == role else {SECOND, AT_ONCE}
    if Ended.RST in told.ended:
        endings |= RESETS
    return [f"{OPENS[role]} {ending}" for ending in sorted(endings)]


def _owner(rows, end):
    """`as told` when each row belongs to the program, `unknown` when none has an owner, else whom it is said to belong to."""
    if not rows["tgid"].any():
        return "unknown"
    named = {(int(row["tgid"]), row["comm"].decode()) for row in np.unique(rows[["tgid", "comm"]])}
    wrong = sorted(f"{pid} {comm}" for pid, comm in named if pid not in end.pids or comm != end.comm)
    return ", ".join(wrong) or "as told"


def results(rows, kind):
    """Add up what the steps of a kind have returned, failures left out."""
    return int(rows["result"][(rows["kind"] == kind) & (rows["returns"] == 1) & (rows["result"] > 0)].sum())


def _by_flow(rows, listeners, observed):
    """Each socket's rows by its flow, its own side first, but for the sockets with the numbers of listeners."""
    rows = rows[np.isin(rows["netns"], observed.inodes) & ~np.isin(rows["socket"], listeners)]
    found = {}
    for number in np.unique(rows["socket"]):
        mine = rows[rows["socket"] == number]
        flow = Flow.of(mine[0], "l", "r")
        assert flow not in found, f"two sockets have been {flow}"
        found[flow] = mine
    return found
