"""The probe `analyse` against the truth: each connection's steps, beside the two applications' own stamps."""

import errno
import itertools
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from lab.arrays import UNKNOWN, Rows
from lab.observation import Observed
from lab.packet import distinct_bytes
from lab.probes.analyse.measure import Kind, Role, joined, stillborn, tells_work
from lab.tcp import Flow, State
from lab.timeline import Call, Connection, Timeline
from lab.truth import states
from lab.truth.wire import OnWire
from lab.verdict import Bracket, Check, Judge

_KINDS = {
    "connect": Kind.CONNECT,
    "accept": Kind.ACCEPT,
    "send": Kind.SEND,
    "recv": Kind.RECEIVE,
    "shutdown": Kind.SHUTDOWN,
    "close": Kind.CLOSE,
}


def checks(observed: Observed, scenario: str) -> Iterator[Check]:
    """Compare each connection's steps with what both applications know; yields every check."""
    judge = _named_briefly(observed.judge(scenario, "analyse"))
    rows = joined(observed.recording.events["analyse"])
    rows = rows[np.isin(rows["netns"], observed.inodes)]
    owners = {str(timeline.pid) for connection in observed.connections for timeline in _both(connection) if timeline}
    named = {str(tgid) for tgid in np.unique(rows["tgid"]) if tgid}
    yield judge.equal("both hosts", "processes that are not the applications", "", " ".join(sorted(named - owners)))
    sockets = _sockets(rows)
    early = _at_listeners(rows)
    entries = set(rows[(rows["returns"] == 0) & (rows["kind"] <= Kind.CLOSE)][["tid", "time_ns", "kind"]].tolist())
    for connection, its in observed.with_wire():
        for timeline, inode, paths in zip(
            _both(connection), observed.inodes, (states.client_paths, states.server_paths), strict=True
        ):
            if timeline is None:
                continue
            mine = _find(sockets, inode, timeline)
            yield judge.equal(str(timeline.flow), "socket", "found", "missing" if mine is None else "found")
            if mine is not None:
                other = connection.server if timeline is connection.client else connection.client
                before = early.get((inode, timeline.flow), rows[:0])
                before = before[before["time_ns"] <= timeline.opened_ns]
                side = _Side(judge, timeline, other, mine, before, its)
                yield from side.checks(paths(connection, observed.end_ns))
                yield judge.equal(str(timeline.flow), "system calls without their entry", "", _unentered(mine, entries))


def _named_briefly(judge: Judge) -> Judge:
    """Name all system calls as one attach point: 5.10 observes each by a tracepoint of its own."""
    places = re.sub(r"(tracepoint:sys_(?:enter|exit)_)\w+", r"\1*", judge.attach_point).split(", ")
    return replace(judge, attach_point=", ".join(dict.fromkeys(places)))


def _both(connection: Connection) -> tuple[Timeline, Timeline | None]:
    return connection.client, connection.server


def _sockets(rows: Rows) -> dict[tuple[int, int, Flow], list[Rows]]:
    """Each socket's rows by network namespace, role and flow, in the order in which they began."""
    found: dict[tuple[int, int, Flow], list[Rows]] = defaultdict(list)
    rows = rows[~stillborn(rows)]
    order = np.argsort(rows["socket"], kind="stable")
    cuts = np.flatnonzero(np.diff(rows["socket"][order])) + 1
    for mine in np.split(order, cuts):
        socket = rows[mine]
        if len(socket):
            found[int(socket[0]["netns"]), int(socket[0]["role"]), _remote(Flow.of(socket[0], "l", "r"))].append(socket)
    for several in found.values():
        several.sort(key=lambda socket: int(socket[0]["begun_ns"]))
    return found


def _at_listeners(rows: Rows) -> dict[tuple[int, Flow], Rows]:
    """Find data that reached TCP before its socket was there: a request brings the handshake's ACK where the first was lost."""
    found: dict[tuple[int, Flow], list[int]] = defaultdict(list)
    for index in np.flatnonzero(
        (rows["kind"] == Kind.ARRIVED) & (rows["length"] > 0) & (rows["state"] == State.LISTEN)
    ):
        found[int(rows[index]["netns"]), Flow.of(rows[index], "l", "r")].append(int(index))
    return {key: rows[indexes] for key, indexes in found.items()}


def _remote(flow: Flow) -> Flow:
    """Return a flow without the local address, which the application is never told when it is refused."""
    return flow._replace(laddr="")


def _find(sockets: dict[tuple[int, int, Flow], list[Rows]], inode: int, timeline: Timeline) -> "Rows | None":
    """Return the rows of a timeline's socket: of a flow used again, the last that had begun when the call returned."""
    role = Role.CLIENT if timeline.role == "client" else Role.SERVICE
    candidates = sockets.get((inode, role, _remote(timeline.flow)), [])
    begun = bisect_right(candidates, timeline.opened_ns, key=lambda socket: int(socket[0]["begun_ns"]))
    return candidates[begun - 1] if begun else None


def _unentered(mine: Rows, entries: set[tuple[int, int, int]]) -> str:
    """Name the calls of which the return was reported and the entry was not; that of accept() was the listener's."""
    returns = mine[(mine["returns"] == 1) & (mine["kind"] <= Kind.CLOSE)]
    lone = [kind for kind, *entry in returns[["kind", "tid", "enter_ns"]].tolist() if (*entry, kind) not in entries]
    return " ".join(Kind(kind).name for kind in lone)


class _Side:
    """One end of a connection: what its application did, and what the probe says."""

    def __init__(
        self,
        judge: Judge,
        timeline: Timeline,
        other: Timeline | None,
        rows: Rows,
        early: Rows,
        carried: OnWire | None,
    ) -> None:
        self._judge, self._timeline, self._other, self._rows = judge, timeline, other, rows
        self._early, self._carried = early, carried
        self._subject = str(timeline.flow)
        self._sees_work = tells_work(judge.attach_point.split(", "))
        self._calls = [call for call in timeline.calls if call.name in _KINDS]
        self._resets = any(call.name == "linger0" for side in (timeline, other) if side for call in side.calls)

    def checks(self, paths: list[states.Path]) -> Iterator[Check]:
        yield from self._identity()
        yield from self._system_calls()
        yield from self._states(paths)
        yield from self._connecting()
        if self._other is not None:
            yield from self._segments(self._other)

    def _identity(self) -> Iterator[Check]:
        owners = {f"{row['tgid']} {row['comm'].decode()}" for row in np.unique(self._rows[["tgid", "comm"]])}
        yield self._judge.equal(
            self._subject, "owner", f"{self._timeline.pid} {self._timeline.comm}", ", ".join(sorted(owners))
        )
        flows = {Flow.of(row, "l", "r") for row in np.unique(self._rows[["laddr", "lport", "raddr", "rport"]])}
        if self._calls[0].error:
            flows = {flow._replace(laddr=self._timeline.flow.laddr) for flow in flows}
        measured = ", ".join(sorted(map(str, flows)))
        yield self._judge.equal(self._subject, "addresses and ports", self._subject, measured)

    def _system_calls(self) -> Iterator[Check]:
        returns = self._rows[(self._rows["returns"] == 1) & (self._rows["kind"] <= Kind.CLOSE)]
        truth_names = " ".join(_KINDS[call.name].name for call in self._calls)
        names = " ".join(Kind(kind).name for kind in returns["kind"])
        yield self._judge.equal(self._subject, "system calls", truth_names, names)
        if names != truth_names:
            return
        received = 0
        for number, (call, row) in enumerate(zip(self._calls, returns, strict=True), 1):
            what = f"{call.name}() {number}"
            during = _bracket(call.enter_ns, call.exit_ns)
            yield self._judge.duration(self._subject, f"{what} entered at", during, int(row["enter_ns"]))
            yield self._judge.duration(self._subject, f"{what} returned at", during, int(row["time_ns"]))
            yield self._judge.equal(self._subject, f"result of {what}", *_results(call, row))
            if call.name in ("send", "recv") and self._sees_work:
                yield from self._work(what, call, row, received)
            if call.name == "recv" and not call.error:
                received += call.result

    def _work(self, what: str, call: Call, returned: np.void, received: int) -> Iterator[Check]:
        """Judge what TCP did for a call that sends or receives: when, with which result, how long it was waited for."""
        kind = Kind.SENT if call.name == "send" else Kind.RECEIVED
        within = self._rows[(self._rows["kind"] == kind) & (self._rows["tid"] == returned["tid"])]
        within = within[(within["time_ns"] >= returned["enter_ns"]) & (within["time_ns"] <= returned["time_ns"])]
        yield self._judge.equal(self._subject, f"times TCP was at work in {what}", 1, len(within))
        if len(within) != 1:
            return
        work = within[0]
        earliest_ns = call.enter_ns
        if call.name == "recv":
            earliest_ns = max(earliest_ns, self._sent_ns(call, received))
        yield self._judge.duration(
            self._subject, f"TCP done in {what} at", _bracket(earliest_ns, call.exit_ns), int(work["time_ns"])
        )
        yield self._judge.equal(self._subject, f"result of TCP in {what}", *_results(call, work))
        # From where TCP, or the call, was entered, which must lie in the call, it was not done before the peer had sent.
        enter_ns = int(work["enter_ns"])
        during = _bracket(call.enter_ns, call.exit_ns)
        yield self._judge.duration(self._subject, f"TCP entered in {what} at", during, enter_ns)
        waited = _bracket(max(0, earliest_ns - enter_ns), call.exit_ns - enter_ns)
        yield self._judge.duration(self._subject, f"wait in {what}", waited, int(work["time_ns"]) - enter_ns)

    def _sent_ns(self, call: Call, received: int) -> int:
        """When the peer entered the call that sent the last of what this recv() returned, or that ended the connection."""
        if self._other is None:
            return 0
        if call.error or not call.result:
            return next(c.enter_ns for c in self._other.calls if c.name in ("shutdown", "close"))
        for sent in (c for c in self._other.calls if c.name == "send"):
            received -= sent.result
            if received + call.result <= 0:
                return sent.enter_ns
        return 0

    def _states(self, paths: list[states.Path]) -> Iterator[Check]:
        """Judge the states as full sockets have them: TIME_WAIT is missing where only a minisock comes to it."""
        paths += [path[:-1] for path in paths if [entered.state for entered in path[-2:]] == _MINISOCK]
        possible = {" ".join(entered.state.name for entered in path): path for path in paths}
        changes = self._rows[np.isin(self._rows["kind"], (Kind.CHANGED, Kind.OPENED)) & (self._rows["oldstate"] > 0)]
        measured = " ".join(State(state).name for state in changes["state"])
        yield self._judge.one_of(self._subject, "state sequence", list(possible), measured)
        for entered, row in zip(possible.get(measured, ()), changes, strict=False):
            quantity = f"{entered.state.name} entered at"
            yield self._judge.duration(self._subject, quantity, entered.bracket, int(row["time_ns"]))
        for before, after in itertools.pairwise(changes):
            old, new = (State(state).name for state in (after["oldstate"], before["state"]))
            yield self._judge.equal(self._subject, f"state left for {State(after['state']).name}", new, old)

    def _connecting(self) -> Iterator[Check]:
        established = self._rows[self._rows["state"] == State.ESTABLISHED]
        if not len(established):
            return
        opening = self._calls[0]
        measured = int(established["connect_ns"][-1])
        if self._timeline.role == "client":
            least_ns = self._carried.syn_sent_ns if self._carried else 0
            bracket = _bracket(least_ns, opening.exit_ns - opening.enter_ns)
            yield self._judge.duration(self._subject, "connect time", bracket, measured)
        elif self._carried and self._carried.syn_acks > 1:  # of what was sent again the kernel takes no sample
            yield self._judge.equal(self._subject, "connect time", UNKNOWN, measured)
        elif (
            measured != UNKNOWN and self._other is not None
        ):  # the kernel measures in whole microseconds, or not at all
            least_ns = self._carried.syn_recv_ns if self._carried else 0
            bracket = _bracket(least_ns, opening.exit_ns - self._other.find("connect").enter_ns)
            yield self._judge.duration(self._subject, "connect time", bracket, measured, resolution_ns=1000)

    def _segments(self, other: Timeline) -> Iterator[Check]:
        """Judge what arrived: all that the peer has sent, each byte once but for retransmissions, not before it was sent."""
        arrived = self._rows[(self._rows["kind"] == Kind.ARRIVED) & (self._rows["length"] > 0)]
        data = np.concatenate([self._early, arrived])
        processed = self._rows[(self._rows["kind"] == Kind.PROCESSED) & (self._rows["length"] > 0)]
        sends = [call for call in other.calls if call.name == "send" and not call.error]
        sent = sum(call.result for call in sends)
        least = 0 if self._resets else sent
        bracket = Bracket(least, sent, sent)
        yield self._judge.count(
            self._subject, "bytes that reached TCP", bracket, distinct_bytes(data["seq"], data["length"])
        )
        unheard = set(processed["seq"].tolist()) - set(data["seq"].tolist())
        yield self._judge.equal(self._subject, "segments processed that never arrived", 0, len(unheard))
        if len(data) and sends:
            window = _bracket(sends[0].enter_ns, max(self._calls[-1].exit_ns, other.calls[-1].exit_ns))
            yield self._judge.duration(self._subject, "first data reached TCP at", window, int(data["time_ns"][0]))


_MINISOCK = [State.FIN_WAIT2, State.TIME_WAIT]


def _bracket(low_ns: int, high_ns: int) -> Bracket:
    return Bracket(low_ns, high_ns, (low_ns + high_ns) // 2)


def _results(call: Call, row: np.void) -> tuple[str, str]:
    """Return what the application was told and what the probe says: an error's name, or how many bytes."""
    result = int(row["result"])
    counted = call.name in ("send", "recv")
    told = call.error or (str(call.result) if counted else "done")
    said = errno.errorcode.get(-result, str(result)) if result < 0 else str(result) if counted else "done"
    return told, said
