"""TCP state changes, and how long each socket stayed in each state.

SKADDR    kernel address of the socket
C-PID     process that owns the socket, C-COMM its name; - until that process itself has changed the socket's state (what a
          server accepts is known to be its own when it closes), since at other times any bystander may be current
LADDR     local address and port (- before connect() has bound one), RADDR the remote ones; IPv4-mapped as IPv4
OLDSTATE  the state left, NEWSTATE the state entered, as the kernel spells them
MS        milliseconds spent in OLDSTATE; - when nobody can know: in a socket's first row, or after a lost event

SYN_RECV of a passive open is the time from SYN-ACK to final ACK that the kernel measured (to the microsecond, with SYN
cookies to some 64 ms, - when the SYN-ACK was retransmitted): the socket itself appears only at the final ACK. After an active
close FIN_WAIT2 lasts until the peer's FIN, also when close() has replaced the socket by a timewait minisock, or until that has
waited long enough (tcp_fin_timeout); TIME_WAIT is where the report ends. No further row comes when data comes instead of the FIN,
or when there is no room for one more minisock (tcp_max_tw_buckets).
"""

import argparse
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lab import live, truth
from lab.carried import Carried
from lab.measure import UNKNOWN, superseded, transitions
from lab.program import Program
from lab.recording import CLOCK
from lab.ring import Events
from lab.tcp import State, address_text
from lab.timeline import Timeline
from lab.units import port
from lab.verdict import Bracket, Check, Judge

if TYPE_CHECKING:
    from lab.observed import Observed  # brings the topology, which a live tool does not need

EXAMPLES = """\
examples:
  lab states                       every change on this machine
  lab states -L 9999 --seconds 10  connections of the local port 9999
  lab states --netns web --json    those of one network namespace, as JSON Lines
"""

_UNTOUCHED = (State.SYN_RECV, State.ESTABLISHED, State.CLOSE)
_ENDED = (State.CLOSE, State.TIME_WAIT)
_MOST_OPEN = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "-L", "--localport", type=port, nargs="+", metavar="PORT", help="connections of these local ports"
    )
    parser.add_argument("-D", "--remoteport", type=port, nargs="+", metavar="PORT", help="of these remote ports")
    family = parser.add_mutually_exclusive_group()
    family.add_argument(
        "-4", "--ipv4", action="store_const", dest="version", const=4, help="IPv4 only, mapped included"
    )
    family.add_argument("-6", "--ipv6", action="store_const", dest="version", const=6, help="IPv6 only")
    parser.add_argument("-w", "--wide", action="store_true", help="columns as wide as IPv6 addresses")
    parser.add_argument("-T", "--timestamp", action="store_true", help="begin each line with the time of day")
    live.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print changes until Ctrl-C, or for `--seconds`."""
    follow = Follow(args.localport, args.remoteport, args.version)
    output = live.Output(
        args,
        header(wide=args.wide, timestamp=args.timestamp),
        lambda row: line(row, wide=args.wide, timestamp=args.timestamp),
    )
    with live.events(Program.load("states"), args.seconds, netns=live.netns_of(args)) as batches:
        output.start()
        for batch in batches:
            for row in follow.rows(batch):
                output.row(as_dict(row))
    output.note(follow.end())
    return 0


class Follow:
    """Turns batches of events into rows to show, carrying what open sockets were last seen doing.

    A row whose port is not known yet (the local one at SYN_SENT, the remote one at SYN_RECV) waits for the socket's next
    row when a filter asks for that port, and is judged by it.
    """

    def __init__(self, lports: list[int] | None, rports: list[int] | None, version: int | None) -> None:
        self._lports, self._rports, self._version = lports, rports, version
        self._open: npt.NDArray[np.void] | None = None
        self._forgotten = 0

    def rows(self, batch: Events) -> npt.NDArray[np.void]:
        """Return the rows that can be shown now, in order of time."""
        dtype = np.dtype(
            [*((name, batch.dtype[name]) for name in batch.dtype.names or ()), ("shown", "u1"), ("carried", "u1")]
        )
        fresh = np.zeros(len(batch), dtype)
        for name in batch.dtype.names or ():
            fresh[name] = batch[name]
        rows = transitions(fresh if self._open is None else np.concatenate([self._open, fresh]))
        waits = self._waits(rows)
        showing = (rows["shown"] == 0) & ~waits
        shown = rows[showing & self._wanted(rows)]
        rows["shown"] |= ~waits
        self._carry(rows, dtype)
        return shown

    def end(self) -> str:
        """Return what remains to be said when the tool ends."""
        notes = []
        if self._open is not None and (waiting := int((self._open["shown"] == 0).sum())):
            notes.append(f"{waiting} connections had no port yet and are not shown")
        if self._forgotten:
            notes.append(f"more than {_MOST_OPEN} sockets were open: {self._forgotten} were forgotten")
        return "; ".join(notes)

    def _waits(self, rows: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
        waits = (rows["newstate"] == State.SYN_RECV) & (rows["rport"] == 0)
        if self._lports:
            waits |= (rows["newstate"] == State.SYN_SENT) & (rows["lport"] == 0)
        return waits & self._in_scope(rows)

    def _wanted(self, rows: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
        wanted = self._in_scope(rows)
        if self._lports:
            wanted &= np.isin(rows["lport"], self._lports)
        if self._rports:
            wanted &= np.isin(rows["rport"], self._rports)
        return wanted

    def _in_scope(self, rows: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
        """Tell which rows are of the IP version asked for, which every row knows."""
        if self._version:
            return _is_ipv4(rows) == (self._version == 4)
        return np.ones(len(rows), bool)

    def _carry(self, rows: npt.NDArray[np.void], dtype: np.dtype[np.void]) -> None:
        _, last = np.unique(rows["socket"][::-1], return_index=True)
        latest = rows[len(rows) - 1 - last]
        latest = latest[~superseded(latest)]
        # What has ended stays for one more batch, which may repeat its end; a minisock's address may be another's by now.
        latest = latest[~np.isin(latest["newstate"], _ENDED) | (latest["carried"] + latest["minisock"] == 0)]
        if len(latest) > _MOST_OPEN:
            self._forgotten += len(latest) - _MOST_OPEN
            latest = np.sort(latest, order="time_ns")[-_MOST_OPEN:]
        self._open = np.zeros(len(latest), dtype)
        for name in dtype.names or ():
            self._open[name] = latest[name]
        self._open["carried"] = 1


def as_dict(row: np.void) -> dict[str, object]:
    """One row under the names that `--json` and `--csv` use; None is unknown."""
    known = int(row["tgid"]) != 0
    duration_ns = int(row["duration_ns"])
    return {
        "time_ns": int(row["time_ns"]),
        "clock": CLOCK,
        "skaddr": f"{int(row['skaddr']):x}",
        "netns": int(row["netns"]),
        "pid": int(row["tgid"]) if known else None,
        "comm": row["comm"].decode(errors="replace") if known else None,
        "laddr": address_text(row["laddr"].tobytes()),
        "lport": int(row["lport"]) or None,
        "raddr": address_text(row["raddr"].tobytes()),
        "rport": int(row["rport"]) or None,
        "oldstate": State(row["oldstate"]).name,
        "newstate": State(row["newstate"]).name,
        "duration_ns": None if duration_ns == UNKNOWN else duration_ns,
    }


def table(observed: "Observed") -> Iterator[str]:
    """Yield what the live tool would have printed for both hosts."""
    wide = any(":" in connection.client.flow.laddr for connection in observed.connections)
    yield header(wide=wide)
    for row in transitions(observed.recording.events["states"]):
        if row["netns"] in observed.inodes:
            yield line(as_dict(row), wide=wide)


def header(*, wide: bool = False, timestamp: bool = False) -> str:
    """Return the table's head line."""
    width = 39 if wide else 15
    time_of_day = f"{'TIME':<15} " if timestamp else ""
    return (
        f"{time_of_day}{'SKADDR':<16} {'C-PID':<7} {'C-COMM':<10} {'LADDR':<{width}} {'LPORT':<5} "
        f"{'RADDR':<{width}} {'RPORT':<5} {'OLDSTATE':<11} -> {'NEWSTATE':<11} MS"
    )


def line(row: dict[str, object], *, wide: bool = False, timestamp: bool = False) -> str:
    """One row of the table."""
    width = 39 if wide else 15
    time_of_day = f"{live.time_of_day(row['time_ns']):<15} " if timestamp else ""
    duration_ns = row["duration_ns"]
    ms = "-" if not isinstance(duration_ns, int) else f"{duration_ns / 1e6:.3f}"
    pid, comm, lport, rport = ("-" if row[name] is None else row[name] for name in ("pid", "comm", "lport", "rport"))
    return (
        f"{time_of_day}{row['skaddr']:<16} {pid:<7} {comm:<10.10} {row['laddr']:<{width}} {lport:<5} "
        f"{row['raddr']:<{width}} {rport:<5} {row['oldstate']:<11} -> {row['newstate']:<11} {ms}"
    )


def judge(observed: "Observed", scenario: str) -> Iterator[Check]:
    """Compare what the probe recorded of the connections with what both applications know; yields every check."""
    judge = observed.judge(scenario, "states")
    sockets = _sockets(transitions(observed.recording.events["states"]))
    for connection, its in observed.carried():
        both = (connection.client, connection.server)
        for timeline, inode, paths in zip(both, observed.inodes, (truth.client_paths, truth.server_paths), strict=True):
            if timeline is not None:
                mine = _find(sockets, inode, timeline)
                waits = _Waits(its, by_client=timeline is connection.client)
                yield from _judge_socket(
                    judge, str(timeline.flow), timeline.pid, mine, paths(connection, observed.end_ns), waits
                )


def _sockets(rows: npt.NDArray[np.void]) -> dict[tuple[int, int, int], list[npt.NDArray[np.void]]]:
    """Each socket's rows, by network namespace and ports."""
    found: dict[tuple[int, int, int], list[npt.NDArray[np.void]]] = {}
    for _, mine in itertools.groupby(
        np.argsort(rows["socket"], kind="stable"), key=lambda index: int(rows["socket"][index])
    ):
        socket = rows[list(mine)]
        first = socket[0]
        found.setdefault((int(first["netns"]), int(first["lport"]), int(first["rport"])), []).append(socket)
    return found


def _find(
    sockets: dict[tuple[int, int, int], list[npt.NDArray[np.void]]], inode: int, timeline: Timeline
) -> npt.NDArray[np.void] | None:
    """Return the rows of a timeline's socket, None when there is none; of a flow used again, the last one open by then."""
    flow = timeline.flow
    found = [
        socket
        for socket in sockets.get((inode, flow.lport, flow.rport), [])
        if address_text(socket[0]["raddr"].tobytes()) == flow.raddr
    ]
    # SYN_SENT comes before connect() chooses a port, and a later user of the port may have waited there all the while: which
    # socket had the flow first is told by the second row.
    found.sort(key=lambda socket: int(socket[:2]["time_ns"][-1]))
    begun = [socket for socket in found if socket[:2]["time_ns"][-1] <= timeline.opened_ns]
    if begun:
        return begun[-1]
    return found[0] if found else None


class _Waits:
    """What the wire says of the times that one side waited for the other; nothing where the wire keeps no log."""

    def __init__(self, carried: Carried | None, *, by_client: bool) -> None:
        fin_ns = carried.fin_ns(by_client=by_client) if carried else 0
        self._least_ns = {
            (State.SYN_SENT, State.ESTABLISHED): carried.syn_sent_ns if carried else 0,
            (State.SYN_RECV, State.ESTABLISHED): carried.syn_recv_ns if carried else 0,
            (State.FIN_WAIT1, State.FIN_WAIT2): fin_ns,
            (State.FIN_WAIT1, State.TIME_WAIT): fin_ns,
            (State.LAST_ACK, State.CLOSE): fin_ns,
        }
        self.unmeasured = {State.SYN_RECV} if carried and carried.syn_acks > 1 else set()
        """States whose time nobody has measured: of a SYN-ACK that was sent again the kernel takes no sample (Karn)."""

    def bracket(self, left: truth.Entered, entered: truth.Entered) -> Bracket:
        """How long it can have taken from one state to the next."""
        bracket = truth.between(left, entered)
        low = max(bracket.low, self._least_ns.get((left.state, entered.state), 0))
        return Bracket(low, bracket.high, max(low, bracket.best))


def _judge_socket(
    judge: Judge,
    subject: str,
    pid: int,
    rows: npt.NDArray[np.void] | None,
    paths: list[truth.Path],
    waits: _Waits,
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
            subject, "time from FIN_WAIT1 to TIME_WAIT", truth.between(path[2], path[-1]), sum(closing_ns)
        )


def _is_ipv4(rows: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    mapped = np.array([0] * 10 + [255] * 2, np.uint8)
    return np.asarray((rows["laddr"][:, :12] == mapped).all(axis=1) | (rows["raddr"][:, :12] == mapped).all(axis=1))
