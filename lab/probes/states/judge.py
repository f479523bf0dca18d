"""The numbers of the probe `states` against what the applications and the wire know."""

import itertools
from collections.abc import Iterator

import numpy as np

from lab.arrays import UNKNOWN, Rows
from lab.observation import Observed
from lab.probes.states.measure import transitions
from lab.tcp import State, address_text
from lab.timeline import Timeline
from lab.truth import states
from lab.truth.states import Waits
from lab.verdict import Check, Judge

_UNTOUCHED = (State.SYN_RECV, State.ESTABLISHED, State.CLOSE)
_STILLBORN = [
    State.SYN_RECV,
    State.CLOSE,
]  # a child that is no connection: stillborn() in lab/probes/analyse/measure.py


def checks(observed: Observed, scenario: str) -> Iterator[Check]:
    """Compare what the probe recorded of the connections with what both applications know; yields every check."""
    judge = observed.judge(scenario, "states")
    sockets = _sockets(transitions(observed.recording.events["states"]))
    for connection, its in observed.with_wire():
        both = (connection.client, connection.server)
        for timeline, inode, paths in zip(
            both, observed.inodes, (states.client_paths, states.server_paths), strict=True
        ):
            if timeline is not None:
                mine = _take(sockets, inode, timeline)
                waits = Waits(its, by_client=timeline is connection.client)
                yield from _judge_socket(
                    judge, str(timeline.flow), timeline.pid, mine, paths(connection, observed.end_ns), waits
                )


def _sockets(rows: Rows) -> dict[tuple[int, int, int], list[Rows]]:
    """Each socket's rows, by network namespace and ports."""
    found: dict[tuple[int, int, int], list[Rows]] = {}
    for _, mine in itertools.groupby(
        np.argsort(rows["socket"], kind="stable"), key=lambda index: int(rows["socket"][index])
    ):
        socket = rows[list(mine)]
        if socket["newstate"].tolist() == _STILLBORN:
            continue
        first = socket[0]
        found.setdefault((int(first["netns"]), int(first["lport"]), int(first["rport"])), []).append(socket)
    return found


def _take(sockets: dict[tuple[int, int, int], list[Rows]], inode: int, timeline: Timeline) -> "Rows | None":
    """Take out the rows of a timeline's socket, None when there are none; of a flow used again, the last one open by then.

    To be asked in the order in which the connections were opened: what one has had is not another's, whose own was missed.
    """
    flow = timeline.flow
    of_ports = sockets.get((inode, flow.lport, flow.rport), [])
    found = [socket for socket in of_ports if address_text(socket[0]["raddr"].tobytes()) == flow.raddr]
    # SYN_SENT comes before connect() chooses a port, and a later user of the port may have waited there all the while: which
    # socket had the flow first is told by the second row.
    found.sort(key=_second_ns)
    mine = next((socket for socket in reversed(found) if _second_ns(socket) <= timeline.opened_ns), None)
    if mine is None:
        mine = next((socket for socket in found if _second_ns(socket) <= timeline.calls[-1].exit_ns), None)
    of_ports[:] = [socket for socket in of_ports if socket is not mine]
    return mine


def _second_ns(socket: Rows) -> int:
    return int(socket[:2]["time_ns"][-1])


def _judge_socket(
    judge: Judge,
    subject: str,
    pid: int,
    rows: "Rows | None",
    paths: list[states.Path],
    waits: Waits,
) -> Iterator[Check]:
    possible = {" ".join(entered.state.name for entered in path): path for path in paths}
    measured = "" if rows is None else " ".join(State(state).name for state in rows["newstate"])
    yield judge.one_of(subject, "state sequence", list(possible), measured)
    if rows is None or measured not in possible:
        return
    path = possible[measured]
    # A listener's child that a RST ends has changed state in softirq only.
    known = (
        [str(pid)] if rows["newstate"][0] == State.SYN_SENT or len(path) > len(_UNTOUCHED) else [str(pid), "unknown"]
    )
    owners = {str(tgid or "unknown") for tgid in rows["tgid"]}
    yield judge.one_of(subject, "owner", known, ", ".join(sorted(owners)))
    first = int(rows["duration_ns"][0])
    yield judge.equal(subject, "time before the first row", None, None if first == UNKNOWN else first)
    for entered, row in zip(path, rows, strict=True):
        yield judge.duration(subject, f"{entered.state.name} entered at", entered.bracket, int(row["time_ns"]))
    for (left, entered), row in zip(itertools.pairwise(path), rows[1:], strict=True):
        quantity, measured_ns = f"time in {left.state.name}", int(row["duration_ns"])
        if left.state in waits.unmeasured:
            yield judge.equal(subject, quantity, None, None if measured_ns == UNKNOWN else measured_ns)
            continue
        # The kernel's own sample of the handshake is in whole microseconds.
        resolution_ns = 1000 if left.state is State.SYN_RECV else 0
        yield judge.duration(subject, quantity, waits.bracket(left, entered), measured_ns, resolution_ns)
    if path[-1].state is State.TIME_WAIT:
        # Who acknowledges a FIN decides when; what both waits add up to is the applications' doing alone.
        closing_ns = [
            int(row["duration_ns"])
            for row in rows
            if row["oldstate"] in (State.FIN_WAIT1, State.FIN_WAIT2, State.CLOSING)
        ]
        yield judge.duration(
            subject, "time from FIN_WAIT1 to TIME_WAIT", states.between(path[2], path[-1]), sum(closing_ns)
        )
