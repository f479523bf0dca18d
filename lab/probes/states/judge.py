"""The judge of the probe `states`: its rows against the logs of the applications and of the wire."""

import itertools
from collections.abc import Iterator

from lab.arrays import UNKNOWN, Rows
from lab.observation import Observed
from lab.probes.states.measure import transitions
from lab.tcp import CREATED_BY_SYN, UNSPECIFIED, Flow, State
from lab.timeline import Timeline
from lab.truth import states
from lab.truth.sockets import Socket, Sockets, namespaces, split
from lab.truth.states import Waits
from lab.verdict import Check, Judge

# States that only a system call of the socket's owner enters.
_ENTERED_BY_OWNER = (State.SYN_SENT, State.FIN_WAIT1, State.LAST_ACK)
# States of the second socket created for one connection request: see stillborn() in lab/probes/analyse/measure.py.
_NEVER_ACCEPTED = [State.SYN_RECV, State.CLOSE]


def checks(observed: Observed, scenario: str) -> Iterator[Check]:
    """Yield every check of the recorded state changes against the logs of both applications and of the wire."""
    judge = observed.judge(scenario, "states")
    sockets = _sockets(transitions(observed.recording.events["states"]))
    for connection, on_wire in observed.with_wire():
        both = (connection.client, connection.server)
        raced = all(timeline is not None and timeline.resets for timeline in both)
        for timeline, inode, seen, paths in zip(
            both, observed.inodes, observed.seen(connection), (states.client_paths, states.server_paths), strict=True
        ):
            if timeline is not None:
                rows = sockets.take(inode, timeline)
                if rows is not None:
                    yield judge.equal(str(timeline.flow), "network namespace", str(inode), namespaces(rows))
                path, waits = paths(connection, observed.end_ns, seen), Waits(on_wire, timeline, seen)
                yield from _judge_socket(judge, timeline, rows, path, waits, raced=raced)


def _sockets(rows: Rows) -> Sockets:
    """Return the sockets to match with timelines; the second row, or the only one, is the time of their opening."""
    every = (
        socket
        for socket in split(rows)
        if socket["newstate"].tolist() != _NEVER_ACCEPTED or socket["handshake_rtt_us"][-1] == CREATED_BY_SYN
    )
    return Sockets(Socket(socket, int(socket[:2]["time_ns"][-1])) for socket in every)


def _owners(timeline: Timeline, path: states.Path, *, raced: bool) -> list[str]:
    """Return the possible owners of the rows: the process, if its system call made the change or it had closed before.

    `raced`: both sides reset the connection, and the RST of either can have ended it.
    """
    pid, owners, closed = str(timeline.pid), [], False
    for entered in path:
        by_owner = entered.state in _ENTERED_BY_OWNER or (entered.state is State.CLOSE and timeline.resets)
        owners.append(pid if by_owner or closed else "unknown")
        closed |= by_owner and entered.state is not State.SYN_SENT and timeline.closing.name == "close"
    return [" ".join(owners), *([" ".join([*owners[:-1], "unknown"])] if raced else [])]


def _judge_socket(
    judge: Judge, timeline: Timeline, rows: "Rows | None", paths: list[states.Path], waits: Waits, *, raced: bool
) -> Iterator[Check]:
    subject = str(timeline.flow)
    possible = {" ".join(entered.state.name for entered in path): path for path in paths}
    measured = "" if rows is None else " ".join(State(state).name for state in rows["newstate"])
    yield judge.one_of(subject, "state sequence", list(possible), measured)
    if rows is None or measured not in possible:
        return
    path = possible[measured]
    owners = " ".join(str(tgid or "unknown") for tgid in rows["tgid"])
    yield judge.one_of(subject, "owners", _owners(timeline, path, raced=raced), owners)
    if timeline.flow.laddr not in UNSPECIFIED:  # a client that was refused may not know it
        flows = sorted({str(Flow.of(row, "l", "r")) for row in rows})
        yield judge.equal(subject, "addresses and ports", subject, ", ".join(flows))
    if names := sorted({row["comm"].decode() for row in rows if row["tgid"] == timeline.pid}):
        yield judge.equal(subject, "owner's name", timeline.comm, ", ".join(names))
    begun = State.CLOSE if timeline.role == "client" else State.LISTEN  # a listener creates its children
    yield judge.equal(subject, "state before the first row", begun.name, State(rows["oldstate"][0]).name)
    first = int(rows["duration_ns"][0])
    yield judge.equal(subject, "time before the first row", None, None if first == UNKNOWN else first)
    for entered, row in zip(path, rows, strict=True):
        yield judge.duration(subject, f"{entered.state.name} entered at", entered.bracket, int(row["time_ns"]))
    for (left, entered), row in zip(itertools.pairwise(path), rows[1:], strict=True):
        quantity, measured_ns = f"time in {left.state.name}", int(row["duration_ns"])
        if left.state in waits.unmeasured:
            yield judge.equal(subject, quantity, None, None if measured_ns == UNKNOWN else measured_ns)
            continue
        # The kernel's sample of the handshake is in whole microseconds (tcp_synack_rtt_meas()).
        resolution_ns = 1000 if left.state is State.SYN_RECV else 0
        yield judge.duration(subject, quantity, waits.bracket(left, entered), measured_ns, resolution_ns)
    if path[-1].state is State.TIME_WAIT:
        # The peer's TCP chooses when to acknowledge the FIN. The sum of both waits depends on the applications only.
        closing_ns = [
            int(row["duration_ns"])
            for row in rows
            if row["oldstate"] in (State.FIN_WAIT1, State.FIN_WAIT2, State.CLOSING)
        ]
        closed = next(entered for entered in path if entered.state is State.FIN_WAIT1)
        yield judge.duration(
            subject, "time from FIN_WAIT1 to TIME_WAIT", states.between(closed, path[-1]), sum(closing_ns)
        )
