"""Checks of the probes against logs of third-party programs, which record no times of their system calls."""

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

# State sequences of the kernel's sockets, after RFC 9293, 3.3.2: of the side that closes first, of the other, of both
# at once.
OPENS = {"client": "SYN_SENT ESTABLISHED", "server": "SYN_RECV ESTABLISHED"}
FIRST, AT_ONCE = "FIN_WAIT1 FIN_WAIT2 TIME_WAIT", "FIN_WAIT1 CLOSING TIME_WAIT"
SECOND = "CLOSE_WAIT LAST_ACK CLOSE"
# A RST can come at any time. If data comes to a minisock instead of the peer's FIN, there is no further row
# (lab/probes/states/cli.py).
RESETS = {"CLOSE", "FIN_WAIT1 CLOSE", "FIN_WAIT1 FIN_WAIT2 CLOSE", "FIN_WAIT1 FIN_WAIT2", "CLOSE_WAIT CLOSE"}


@dataclass(frozen=True)
class End:
    """The program at one end of a connection.

    - `pids`: its processes; None if it forks and they have ended, so that only the name is known.
    - `opened_ns`: the longest possible time from the SYN until this side was connected (nanoseconds).
    - `written`: bytes that it wrote; `read`: bytes of these that the other side read. None if not logged for each
      connection.
    """

    comm: str
    pids: set[int] | None
    opened_ns: int
    written: int | None = None
    read: Bracket | None = None


@dataclass(frozen=True)
class Logged:
    """A connection from the programs' logs; times in nanoseconds.

    - `within`: times before the client was started and after it had ended.
    - `duration`: from the first SYN to the first FIN or RST.
    - `closers`: the sides that can have closed first.
    - `ended`: the ways in which the connection can have ended.
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
        """Yield each end: its role, its flow with the own side first, the end itself and the other end."""
        yield "client", self.flow, self.client, self.server
        yield "server", self.flow.reversed(), self.server, self.client


def checks(observed, scenario, connections):
    """Yield every check of the recording against the logs of these connections."""
    for judged in (_durations, _flows, _steps, _states, _round_trips):
        yield from judged(observed, scenario, connections)


def _durations(observed, scenario, connections):
    judge = observed.judge(scenario, "duration")
    rows = lifetimes(observed.recording.events["duration"], observed.end_ns)
    for logged in connections:
        subject, (began_ns, ended_ns) = str(logged.flow), logged.within
        mine = rows[[Flow.of(row) == logged.flow for row in rows]]
        yield judge.equal(subject, "interfaces that saw it", len(observed.recording.devices), len(mine))
        for row in mine:
            yield judge.duration(subject, "first SYN to first FIN or RST", logged.duration, int(row["duration_ns"]))
            yield judge.duration(subject, "first SYN at", Bracket.early(began_ns, ended_ns), int(row["start_ns"]))
            yield judge.one_of(subject, "end", [end.name for end in logged.ended], Ended(row["ended"]).name)
            yield judge.one_of(subject, "closed first", list(logged.closers), Side(row["closed_first"]).name.lower())
            yield judge.duration(
                subject, "SYN to SYN-ACK", Bracket.middle(0, logged.client.opened_ns), int(row["synack_ns"])
            )


def _flows(observed, scenario, connections):
    """Compare SYNs, data and packets by direction, where they left one host and where they arrived at the other."""
    judge = observed.judge(scenario, "flows")
    totals = observed.recording.totals["flows"]
    sums = {}
    for row in measure.merged(totals[totals["version"] > 0], (*measure.PLACE, *_ENDPOINTS)):
        sums[int(row["ifindex"]), Direction(row["direction"]), Flow.of(row)] = row
    indexes = {inode: index for index, (_, inode) in observed.recording.devices.items()}
    here, there = (indexes[inode] for inode in observed.inodes)
    stages = {"client": (here, there, observed.sent[0]), "server": (there, here, observed.sent[1])}
    for logged in connections:
        for role, flow, end, _ in logged.sides:
            left_at, arrives_at, counters = stages[role]
            left, arrived = sums[left_at, Direction.EGRESS, flow], sums[arrives_at, Direction.INGRESS, flow]
            again = counters.retransmitted * MTU
            for where, row in (("left", left), ("arrived", arrived)):
                opened = Bracket.early(1, 1 + counters.retransmitted_syns)
                yield judge.count(str(flow), f"SYN that {where}", opened, int(row["syns"]))
                if end.written is not None:
                    data = Bracket(end.read.low, end.written + again, end.written)
                    yield judge.count(str(flow), f"payload bytes that {where}", data, int(row["payload_bytes"]))
    for host, (index, _, counters) in stages.items():
        left = [row for (at, way, _), row in sums.items() if (at, way) == (index, Direction.EGRESS)]
        packets = sum(int(row["packets"]) for row in left)
        yield judge.count(f"the {host}'s host", "TCP packets sent", segments_sent(counters), packets)


def _steps(observed, scenario, connections):
    """Compare the owner of each step, and the bytes that were sent and received: by calls, by TCP, in segments."""
    judge = observed.judge(scenario, "analyse")
    rows = joined(observed.recording.events["analyse"])
    rows = rows[rows["skaddr"] > 0]  # without packets that came after the socket was destroyed
    # Packets of a handshake arrive in LISTEN but belong to the connection, so they do not mark a listener.
    sockets = _by_flow(rows, rows["socket"][(rows["state"] == State.LISTEN) & (rows["kind"] != Kind.ARRIVED)], observed)
    for logged in connections:
        for role, flow, end, other in logged.sides:
            rows, subject = sockets[flow], str(flow)
            yield judge.equal(subject, "owner", "as logged", _owner(rows, end))
            if role == "client":
                connecting = rows[rows["state"] == State.ESTABLISHED]["connect_ns"][-1]
                yield judge.duration(subject, "connect time", Bracket.middle(0, end.opened_ns), int(connecting))
            if end.written is not None:
                if kernel_abilities.is_told():
                    yield judge.count(
                        subject, "bytes taken by TCP", Bracket.exactly(end.written), results(rows, Kind.SENT)
                    )
                # Data that sendfile() sends belongs to no observed call.
                by_calls = Bracket.late(0, end.written)
                yield judge.count(subject, "bytes sent by calls", by_calls, results(rows, Kind.SEND))
                received = (
                    {Kind.RECEIVED: "TCP", Kind.RECEIVE: "calls"}
                    if kernel_abilities.is_told()
                    else {Kind.RECEIVE: "calls"}
                )
                for kind, source in received.items():
                    yield judge.count(subject, f"bytes returned by {source}", other.read, results(rows, kind))
                data = rows[(rows["kind"] == Kind.ARRIVED) & (rows["length"] > 0)]
                reached = distinct_bytes(data["seq"], data["length"])
                arrived = Bracket.late(other.read.low, other.written)
                yield judge.count(subject, "bytes that reached TCP", arrived, reached)


def _states(observed, scenario, connections):
    judge = observed.judge(scenario, "states")
    rows = transitions(observed.recording.events["states"])
    sockets = _by_flow(rows, rows["socket"][rows["newstate"] == State.LISTEN], observed)
    for logged in connections:
        for role, flow, end, _ in logged.sides:
            rows, subject = sockets[flow], str(flow)
            sequence = " ".join(State(state).name for state in rows["newstate"])
            yield judge.one_of(subject, "state sequence", _sequences(logged, role), sequence)
            # `states` names the owner in the rows that its system calls cause. A RST closes an accepted socket without
            # one.
            reset = role == "server" and Ended.RST in logged.ended
            yield judge.one_of(
                subject, "owner", ["as logged", "unknown"][: 1 + reset], _owner(rows[rows["tgid"] > 0], end)
            )
            began_ns, ended_ns = logged.within[0], observed.end_ns
            for row in rows:
                when = Bracket.early(began_ns, ended_ns)
                yield judge.duration(subject, f"{State(row['newstate']).name} entered at", when, int(row["time_ns"]))
            took = dict(zip(rows["oldstate"].tolist(), rows["duration_ns"].tolist(), strict=True))
            opening = State.SYN_SENT if role == "client" else State.SYN_RECV
            yield judge.duration(
                subject, f"time in {opening.name}", Bracket.middle(0, end.opened_ns), took[opening], 1000
            )
            # Each side enters ESTABLISHED after the SYN, and leaves it no later than the first FIN arrives.
            most = Bracket(0, ended_ns - began_ns, logged.duration.low)
            yield judge.duration(subject, "time in ESTABLISHED", most, took[State.ESTABLISHED])


def _round_trips(observed, scenario, connections):
    judge = observed.judge(scenario, "rtt")
    rows = folded(observed.recording.totals["rtt"])
    samples = {Flow.of(row, "l", "r"): row for row in rows if row["kind"] == Estimate.RTT}
    for logged in connections:
        for _, flow, end, _ in logged.sides:
            for name, most_ns in (("min_us", end.opened_ns), ("max_us", observed.end_ns - logged.within[0])):
                measured_ns = int(samples[flow][name]) * 1000
                yield judge.duration(str(flow), f"RTT samples' {name}", Bracket.middle(0, most_ns), measured_ns, 1000)


def _sequences(logged, role):
    """Return the state sequences that this side's socket can have, given the sides that can have closed first."""
    endings = set()
    for closer in logged.closers:
        endings |= {FIRST, AT_ONCE} if closer == role else {SECOND, AT_ONCE}
    if Ended.RST in logged.ended:
        endings |= RESETS
    return [f"{OPENS[role]} {ending}" for ending in sorted(endings)]


def _owner(rows, end):
    """Return `as logged` if each row belongs to the program, `unknown` if no row has one, else the wrong owners.

    Rows of a socket that two processes of a program that forks hold may be of neither.
    """
    if end.pids is None:
        rows = rows[rows["tgid"] > 0]
    if not rows["tgid"].any():
        return "unknown"
    named = {(int(row["tgid"]), row["comm"].decode()) for row in np.unique(rows[["tgid", "comm"]])}
    wrong = sorted(f"{pid} {comm}" for pid, comm in named if pid not in (end.pids or {pid}) or comm != end.comm)
    return ", ".join(wrong) or "as logged"


def results(rows, kind):
    """Return the sum of the results of all steps of a kind, without failures."""
    return int(rows["result"][(rows["kind"] == kind) & (rows["returns"] == 1) & (rows["result"] > 0)].sum())


def _by_flow(rows, listeners, observed):
    """Return each socket's rows by its flow, the own side first.

    Sockets whose number is in `listeners` are left out.
    """
    rows = rows[np.isin(rows["netns"], observed.inodes) & ~np.isin(rows["socket"], listeners)]
    found = {}
    for number in np.unique(rows["socket"]):
        mine = rows[rows["socket"] == number]
        flow = Flow.of(mine[0], "l", "r")
        assert flow not in found, f"two sockets have the flow {flow}"
        found[flow] = mine
    return found
