"""Judge the probe `analyse`: compare the steps of each connection with the timestamps of the two applications."""

import errno
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from itertools import accumulate, pairwise
from operator import or_

import numpy as np

from lab.arrays import UNKNOWN, Rows
from lab.network.segment_parser import first
from lab.observation import Observed
from lab.packet import distinct_bytes
from lab.probes.analyse.measure import Kind, Role, joined, points, stillborn, tells_work
from lab.tcp import Flow, State
from lab.timeline import Call, Connection, Timeline
from lab.truth import states
from lab.truth.sockets import Socket, Sockets, namespaces, split
from lab.truth.taps import Seen
from lab.truth.wire import OnWire
from lab.verdict import Bracket, Check, Judge

_KINDS = {
    "connect": Kind.CONNECT,
    "accept": Kind.ACCEPT,
    "send": Kind.SEND,
    "recv": Kind.RECEIVE,
    "peek": Kind.RECEIVE,
    "shutdown": Kind.SHUTDOWN,
    "close": Kind.CLOSE,
}


def checks(observed: Observed, scenario: str) -> Iterator[Check]:
    """Yield every check of the steps of the observed connections."""
    judge = _named_briefly(observed.judge(scenario, "analyse"))
    every = joined(observed.recording.events["analyse"])
    rows = every[np.isin(every["netns"], observed.inodes)]
    owners = {str(timeline.pid) for connection in observed.connections for timeline in _both(connection) if timeline}
    named = {str(tgid) for tgid in np.unique(rows["tgid"]) if tgid}
    yield judge.equal("both hosts", "processes that are not the applications", "", " ".join(sorted(named - owners)))
    sockets = _sockets(every)
    early = _at_listeners(rows)
    entries = set(rows[(rows["returns"] == 0) & (rows["kind"] <= Kind.CLOSE)][["tid", "time_ns", "kind"]].tolist())
    for connection, wire in observed.with_wire():
        for timeline, inode, seen, paths in zip(
            _both(connection),
            observed.inodes,
            observed.seen(connection),
            (states.client_paths, states.server_paths),
            strict=True,
        ):
            if timeline is None:
                continue
            mine = sockets.take(inode, timeline)
            yield judge.equal(str(timeline.flow), "socket", "found", "missing" if mine is None else "found")
            if mine is not None:
                yield judge.equal(str(timeline.flow), "network namespace", str(inode), namespaces(mine))
                other = connection.server if timeline is connection.client else connection.client
                before = early.get((inode, timeline.flow), rows[:0])
                before = before[before["time_ns"] <= timeline.opened_ns]
                side = _Side(judge, timeline, other, mine, before, wire, seen)
                yield from side.checks(paths(connection, observed.end_ns, seen))
                yield judge.equal(str(timeline.flow), "system calls without their entry", "", _unentered(mine, entries))


def _named_briefly(judge: Judge) -> Judge:
    """Return the judge with all tracepoints of system calls named as one attach point: 5.10 needs one for each call."""
    places = re.sub(r"(tracepoint:sys_(?:enter|exit)_)\w+", r"\1*", judge.attach_point).split(", ")
    return replace(judge, attach_point=", ".join(dict.fromkeys(places)))


def _both(connection: Connection) -> tuple[Timeline, Timeline | None]:
    return connection.client, connection.server


def _sockets(rows: Rows) -> Sockets:
    """Return the sockets to match with timelines. A socket without a role was not seen to open, so it is left out."""
    every = (socket for socket in split(rows[~stillborn(rows)]) if socket[0]["role"] != Role.UNKNOWN)
    return Sockets(Socket(socket, _opened_ns(socket)) for socket in every)


def _opened_ns(socket: Rows) -> int:
    """Return the time of the second change of state, or of the only one; without any, of the first step."""
    changes = _changes(socket)[:2]
    return int(changes["time_ns"][-1] if len(changes) else socket[0]["begun_ns"])


def _changes(rows: Rows) -> Rows:
    """Return the steps that are changes of state."""
    return rows[np.isin(rows["kind"], (Kind.CHANGED, Kind.OPENED)) & (rows["oldstate"] > 0)]


def _at_listeners(rows: Rows) -> dict[tuple[int, Flow], Rows]:
    """Return, by network namespace and flow, data that reached TCP before its socket existed.

    It happens where the last ACK of the handshake was lost: the first data brings the ACK.
    """
    found: dict[tuple[int, Flow], list[int]] = defaultdict(list)
    for index in np.flatnonzero(
        (rows["kind"] == Kind.ARRIVED) & (rows["length"] > 0) & (rows["state"] == State.LISTEN)
    ):
        found[int(rows[index]["netns"]), Flow.of(rows[index], "l", "r")].append(int(index))
    return {key: rows[indexes] for key, indexes in found.items()}


def _unentered(mine: Rows, entries: set[tuple[int, int, int]]) -> str:
    """Return the names of calls whose return was reported without their entry (accept() is entered on the listener)."""
    returns = mine[(mine["returns"] == 1) & (mine["kind"] <= Kind.CLOSE)]
    lone = [kind for kind, *entry in returns[["kind", "tid", "enter_ns"]].tolist() if (*entry, kind) not in entries]
    return " ".join(Kind(kind).name for kind in lone)


class _Side:
    """Checks of one end of a connection: the calls of its application against the rows of its socket."""

    def __init__(
        self,
        judge: Judge,
        timeline: Timeline,
        other: Timeline | None,
        rows: Rows,
        early: Rows,
        wire: OnWire | None,
        seen: Seen | None,
    ) -> None:
        self._judge, self._timeline, self._other, self._rows = judge, timeline, other, rows
        self._early, self._seen = early, seen
        self._waits = states.Waits(wire, timeline, seen)
        self._subject = str(timeline.flow)
        self._sees_work = tells_work(judge.attach_point.split(", "))
        self._calls = [call for call in timeline.calls if call.name in _KINDS]
        self._sends = [call for call in other.calls if call.name == "send"] if other else []
        self._sent = list(accumulate(call.result for call in self._sends))
        self._done = {kind: rows[rows["kind"] == kind] for kind in (Kind.SENT, Kind.RECEIVED)}
        self._resets = any(side.resets for side in (timeline, other) if side)

    def checks(self, paths: list[states.Path]) -> Iterator[Check]:
        yield from self._identity()
        yield from self._system_calls()
        yield from self._states(paths)
        for path in paths[:1]:  # all paths open alike
            yield from self._connecting(path)
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
            during = Bracket.middle(call.enter_ns, call.exit_ns)
            yield self._judge.duration(self._subject, f"{what} entered at", during, int(row["enter_ns"]))
            yield self._judge.duration(self._subject, f"{what} returned at", during, int(row["time_ns"]))
            yield self._judge.equal(self._subject, f"result of {what}", *_results(call, row))
            if call.name in ("send", "recv") and self._sees_work:  # a peek takes no data
                yield from self._work(what, call, row, received)
            if call.name == "recv" and not call.error:
                received += call.result

    def _work(self, what: str, call: Call, returned: np.void, received: int) -> Iterator[Check]:
        """Judge the work of TCP for a call that sends or receives: its times, its result, and the wait."""
        kind = Kind.SENT if call.name == "send" else Kind.RECEIVED
        bounds = np.searchsorted(self._done[kind]["time_ns"], (returned["enter_ns"], returned["time_ns"] + 1))
        within = self._done[kind][slice(*bounds)]
        within = within[within["tid"] == returned["tid"]]
        # sendfile() passes on what its pipe holds (splice_direct_to_actor()). The others send and receive several messages.
        if points()[returned["point"]] in ("sendfile", *_OF_MESSAGES):
            taken = int(within["result"][within["result"] > 0].sum())
            yield self._judge.equal(self._subject, f"bytes that TCP took in {what}", call.result, taken)
            return
        yield self._judge.equal(self._subject, f"times TCP was at work in {what}", 1, len(within))
        if len(within) != 1:
            return
        work = within[0]
        earliest_ns = call.enter_ns
        if call.name == "recv" and call.error != "EAGAIN":
            earliest_ns = max(earliest_ns, self._sent_ns(call, received))
        yield self._judge.duration(
            self._subject, f"TCP done in {what} at", Bracket.middle(earliest_ns, call.exit_ns), int(work["time_ns"])
        )
        yield self._judge.equal(self._subject, f"result of TCP in {what}", *_results(call, work))
        # The wait begins where TCP, or the call, was entered: inside the call. It ends after the peer has sent.
        enter_ns = int(work["enter_ns"])
        during = Bracket.middle(call.enter_ns, call.exit_ns)
        yield self._judge.duration(self._subject, f"TCP entered in {what} at", during, enter_ns)
        waited = Bracket.middle(max(0, earliest_ns - enter_ns), call.exit_ns - enter_ns)
        yield self._judge.duration(self._subject, f"wait in {what}", waited, int(work["time_ns"]) - enter_ns)

    def _sent_ns(self, call: Call, received: int) -> int:
        """Return when the peer entered the call that sent the last byte of this recv() or its end of data; else 0."""
        if self._other is None:
            return 0
        if call.error or not call.result:
            return self._other.closing.enter_ns
        found = bisect_left(self._sent, received + call.result)
        return self._sends[found].enter_ns if found < len(self._sends) else 0

    def _states(self, paths: list[states.Path]) -> Iterator[Check]:
        """Judge the states of the full socket. TIME_WAIT is missing where only a minisock enters it."""
        paths += [path[:-1] for path in paths if [entered.state for entered in path[-2:]] == _MINISOCK]
        possible = {" ".join(entered.state.name for entered in path): path for path in paths}
        changes = _changes(self._rows)
        measured = " ".join(State(state).name for state in changes["state"])
        yield self._judge.one_of(self._subject, "state sequence", list(possible), measured)
        for entered, row in zip(possible.get(measured, ()), changes, strict=False):
            quantity = f"{entered.state.name} entered at"
            yield self._judge.duration(self._subject, quantity, entered.bracket, int(row["time_ns"]))
        for before, after in pairwise(changes):
            old, new = (State(state).name for state in (after["oldstate"], before["state"]))
            yield self._judge.equal(self._subject, f"state left for {State(after['state']).name}", new, old)

    def _connecting(self, path: states.Path) -> Iterator[Check]:
        """Judge the time of the handshake at this side: that of a server is the kernel's sample, in whole microseconds."""
        established = self._rows[self._rows["state"] == State.ESTABLISHED]
        if not len(established):
            return
        measured = int(established["connect_ns"][-1])
        if path[0].state in self._waits.unmeasured:
            yield self._judge.equal(self._subject, "connect time", UNKNOWN, measured)
        elif measured != UNKNOWN or path[0].state is State.SYN_SENT:
            resolution_ns = 1000 if path[0].state is State.SYN_RECV else 0
            bracket = self._waits.bracket(*path[:2])
            yield self._judge.duration(self._subject, "connect time", bracket, measured, resolution_ns=resolution_ns)

    def _segments(self, other: Timeline) -> Iterator[Check]:
        """Judge the data that arrived: every byte that the peer sent, counted once, and not before it was sent."""
        arrived = self._rows[(self._rows["kind"] == Kind.ARRIVED) & (self._rows["length"] > 0)]
        data = np.concatenate([self._early, arrived])
        sends = [call for call in other.calls if call.name == "send" and not call.error]
        sent = sum(call.result for call in sends)
        least = 0 if self._resets else sent
        bracket = Bracket.late(least, sent)
        yield self._judge.count(
            self._subject, "bytes that reached TCP", bracket, distinct_bytes(data["seq"], data["length"])
        )
        yield from self._processed(np.concatenate([self._early, self._rows[self._rows["kind"] == Kind.ARRIVED]]))
        if len(data) and sends:
            ends = max(self._calls[-1].exit_ns, other.calls[-1].exit_ns)
            read_ns = next((it.exit_ns for it in self._calls if it.name in ("recv", "peek") and it.result > 0), ends)
            window = Bracket.middle(sends[0].enter_ns, read_ns)
            came = first(self._seen.came, self._seen.came["payload"] > 0) if self._seen else None
            if self._seen and came is not None:
                window = Bracket.middle(*window.common(self._seen.coming(came)))
            yield self._judge.duration(self._subject, "first data reached TCP at", window, int(data["time_ns"][0]))

    def _processed(self, arrived: Rows) -> Iterator[Check]:
        """Judge the segments that TCP processed in ESTABLISHED: each has arrived, and has its flags.

        A segment in the backlog of a held socket takes up those that follow it (tcp_add_backlog()): it keeps its sequence number,
        and gets their flags. One that takes up a FIN without data keeps its length, too.
        """
        chosen = (self._rows["kind"] == Kind.PROCESSED) & (self._rows["state"] == State.ESTABLISHED)
        rows = self._rows[chosen & (self._rows["oldstate"] == 0)]  # others tell of a change of state, and of no segment
        known = set(arrived["seq"].tolist())
        strange = [row for row in rows if int(row["seq"]) not in known]
        yield self._judge.equal(self._subject, "segments processed that never arrived", 0, len(strange))
        flags, came = defaultdict[tuple[int, int], set[int]](set), arrived[["seq", "length", "flags"]].tolist()
        for seq, length, flag in came:
            flags[seq, length].add(flag)
        other = 0
        for seq, length, flag in rows[["seq", "length", "flags"]].tolist():
            known = flags.get((seq, length), {flag})
            if flag not in known:
                following = [it for begin, _, it in came if (begin - seq - length) % 2**32 < 2**31]
                taken_up = reduce(or_, following, 0)
                other += not any(one & ~flag == 0 and flag & ~(one | taken_up) == 0 for one in known)
        yield self._judge.equal(self._subject, "segments processed with other flags", 0, other)


_OF_MESSAGES = ("sendmmsg", "recvmmsg")
"""Calls whose result is a number of messages, and not of bytes."""

_MINISOCK = [State.FIN_WAIT2, State.TIME_WAIT]


def _results(call: Call, row: np.void) -> tuple[str, str]:
    """Return the result of a call as the application and as the probe report it: an error's name, bytes, or `done`."""
    result = int(row["result"])
    counted = call.name in ("send", "recv", "peek") and points()[row["point"]] not in _OF_MESSAGES
    truth = call.error or (str(call.result) if counted else "done")
    if result < 0:
        return truth, errno.errorcode.get(-result, str(result))
    return truth, str(result) if counted else "done"
