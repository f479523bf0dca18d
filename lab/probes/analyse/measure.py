"""Join the steps of each socket: pure functions over the events of the probe `analyse`.

An event has only the fields that are known at its attach point: in softirq, for example, the owner of the socket is
unknown. `joined` fills in a missing field from other events of the same socket. What does not live here: following
sockets over many batches (lab/probes/analyse/tracker.py).
"""

import re
from collections.abc import Collection
from enum import IntEnum
from functools import cache

import numpy as np
import numpy.typing as npt

from lab.arrays import UNKNOWN, Events, Index, Integers, Mask, Rows, flow_numbers, in_order
from lab.paths import SOURCES
from lab.tcp import CREATED_BY_SYN, State


class Kind(IntEnum):
    """Kind of a step, as in `enum kind` of bpf/analyse/event.h (a test compares them). Up to CLOSE: system calls."""

    CONNECT = 0
    ACCEPT = 1
    SEND = 2
    RECEIVE = 3
    SHUTDOWN = 4
    CLOSE = 5
    OPENED = 6
    SENT = 7
    RECEIVED = 8
    ARRIVED = 9
    PROCESSED = 10
    CHANGED = 11
    DESTROYED = 12


class Takes(IntEnum):
    """What a call that receives takes from the socket, as in `enum takes` of bpf/analyse/event.h (a test compares them)."""

    DATA = 0
    NOTHING = 1
    ERRORS = 2


class Role(IntEnum):
    """End of a connection that a socket is. A listener counts as service."""

    UNKNOWN = 0
    CLIENT = 1
    SERVICE = 2


@cache
def points() -> tuple[str, ...]:
    """Return the names of the attach points, in the order of `enum point` in bpf/analyse/event.h."""
    (body,) = re.findall(r"enum point \{(.*?)\};", (SOURCES / "analyse/event.h").read_text(encoding="utf-8"), re.DOTALL)
    return tuple(re.findall(r"\bAT_(\w+)", body))


def tells_work(places: Collection[str]) -> bool:
    """Return true if these attach points report the work of TCP for a system call that sends or receives.

    The tracepoints for it (`sock:sock_send_length`, `sock:sock_recv_length`) exist since Linux 6.3.
    """
    return any(place.endswith((":tcp_recvmsg", ":sock_recv_length")) for place in places)


DEFERRED = -2
"""The `connecting_ns` of a socket whose connect() has returned before any SYN was sent."""

_DERIVED = {
    "socket": "i8",
    "begun_ns": "u8",
    "connecting_ns": "i8",
    "connect_ns": "i8",
    "opens": "u1",
    "holder": "u4",
    "holder_comm": "S16",
    "abandoned": "u1",
    "role": "u1",
    "kept": "u1",
}


def joined(steps: Events) -> Rows:
    """Return the steps in order of time, with the fields of the events and these.

    - `socket`: a number for each socket. The kernel reuses addresses: a socket ends at its DESTROYED step.
    - `begun_ns`: time of the first step of the socket.
    - `role`: `Role.CLIENT` if the socket called connect(), `SERVICE` if it listened or came from a listener, else
      `UNKNOWN`.
    - `connecting_ns`: time at which the call was entered that sends the SYN, until the socket has left SYN_SENT. Else
      `UNKNOWN`, or `DEFERRED` if connect() has returned without a SYN.
    - `connect_ns`: duration from `connecting_ns` to ESTABLISHED; for a passive open the kernel's own measurement from
      SYN-ACK to ACK. Set on rows from ESTABLISHED on, else `UNKNOWN`.
    - `opens`: 1 if the row begins an attempt to open a connection.
    - `mptcp`: also of steps before the kernel has connected the subflow with its MPTCP socket.
    - `kept`: 1 if the row came from an earlier batch (see `kept`).

    Missing addresses, ports and owners are filled in from other rows of the socket. The owner of a step in softirq is
    the process that made the last call on the socket; before the first call, the process that makes it. A socket
    without any call has no owner (`tgid` is 0).
    """
    rows = _by_socket(steps)
    if not len(rows):
        return rows
    late = _late(rows)
    before = np.maximum.accumulate(np.where(late, -1, np.arange(len(rows))))
    previous = rows[["skaddr", "kind", "lost"]][np.roll(before, 1)]
    begins = (rows["skaddr"] != previous["skaddr"]) | (~late & (previous["kind"] == Kind.DESTROYED))
    # After a loss the address may belong to another socket. A packet without a socket gets a number of its own.
    begins |= (rows["lost"] != previous["lost"]) | (rows["skaddr"] == 0) | _begins_mptcp(rows)
    begins[0] = True
    rows["socket"] = np.cumsum(begins) - 1
    begun_ns = np.where(rows["begun_ns"] > 0, rows["begun_ns"], _since(rows))[begins]
    rows = _sorted(rows)
    _find_openings(rows)
    _fill_endpoints(rows)
    _adopt_packets(rows)
    rows = _sorted(rows)
    rows["begun_ns"] = begun_ns[rows["socket"]]
    _find_roles(rows)
    _measure_connecting(rows)
    _fill_owners(rows)
    return in_order(rows)


def latency_ns(rows: Rows) -> Integers:
    """Return the duration (nanoseconds) of what each row ends, `UNKNOWN` if it ends nothing.

    The return of a call: from its entry. The change to ESTABLISHED: the connect time.
    """
    time_ns = rows["time_ns"].astype(np.int64)
    calls = np.where(rows["enter_ns"] > 0, time_ns - rows["enter_ns"].astype(np.int64), UNKNOWN)
    opened = (rows["kind"] == Kind.CHANGED) & (rows["state"] == State.ESTABLISHED)
    return np.where(opened, rows["connect_ns"], calls)


def uncalled(rows: Rows) -> Mask:
    """Return which rows are the work of TCP for a call that is not observed, or was entered before the program was attached.

    Subflows of MPTCP have no calls.
    """
    worked = np.isin(rows["kind"], (Kind.OPENED, Kind.SENT, Kind.RECEIVED)) & (rows["called"] == 0)
    of_subflow = (rows["mptcp"] > 0) & (rows["mptcp"] != rows["skaddr"])
    return np.asarray(worked & ~of_subflow & (rows["kept"] == 0))


def kept(rows: Rows, forget_ns: int) -> Rows:
    """Return the rows of a result of `joined` that have to precede the next events in its next argument.

    One row for each socket that exists. A socket that was destroyed after `forget_ns` has a second row, the DESTROYED
    step: calls on it may still return. Sockets that were destroyed earlier are left out.
    """
    rows = rows[~stillborn(rows)]
    _, last = np.unique(rows["socket"][::-1], return_index=True)
    known = rows[len(rows) - 1 - last]
    ends = rows[(rows["kind"] == Kind.DESTROYED) | _ends_mptcp(rows)]
    forgotten = ends["socket"][ends["time_ns"] <= forget_ns]
    known = known[(known["skaddr"] > 0) & ~np.isin(known["socket"], forgotten)]
    known["kind"], known["enter_ns"], known["returns"] = Kind.PROCESSED, 0, 0  # a kind without a meaning of its own
    known["tgid"], known["comm"] = known["holder"], known["holder_comm"]
    known["time_ns"] = known["begun_ns"]
    result = np.concatenate([known, ends[~np.isin(ends["socket"], forgotten)]])
    result["kept"] = 1
    return result


def stillborn(rows: Rows) -> Mask:
    """Return which rows belong to a child of a listener that the kernel closed at once (`inet_ehash_nolisten()`).

    Two processors took segments for the same request, and each created a child. The second child never receives a
    segment.
    """
    sockets = np.zeros(rows["socket"].max(initial=-1) + 1, bool)
    closed = (rows["kind"] == Kind.CHANGED) & (rows["oldstate"] == State.SYN_RECV) & (rows["state"] == State.CLOSE)
    sockets[rows["socket"][closed]] = True
    sockets[rows["socket"][~np.isin(rows["kind"], (Kind.CHANGED, Kind.DESTROYED))]] = False
    return np.asarray(sockets[rows["socket"]])


def _since(rows: Rows) -> npt.NDArray[np.uint64]:
    """Return the earliest time at which the socket of each row is known to have existed.

    That is the entry of a call: close() and state processing can return after the kernel has destroyed the socket.
    """
    accepts = rows["kind"] == Kind.ACCEPT  # the socket may have been created after accept() was entered
    return np.where((rows["enter_ns"] > 0) & ~accepts, rows["enter_ns"], rows["time_ns"])


def _late(rows: Rows) -> Mask:
    """Return which rows are packets that the kernel gave to a socket in CLOSE.

    The packets were in the backlog (`sk_backlog`) while a thread had locked the socket, and that thread closed it.
    They belong to this socket and not to the next one at the address, which receives nothing before it leaves CLOSE.
    """
    closed = (rows["kind"] == Kind.PROCESSED) & (rows["oldstate"] == State.CLOSE)
    closed |= (rows["kind"] == Kind.ARRIVED) & (rows["state"] == State.CLOSE)
    return np.asarray(closed & (rows["kept"] == 0))


def _by_socket(steps: Events) -> Rows:
    """Return the steps with room for the derived fields, sorted by kernel address and time, without repeated steps."""
    known = {name: steps.dtype[name] for name in steps.dtype.names or ()}
    rows = np.zeros(len(steps), list((_DERIVED | known).items()))
    rows["connecting_ns"], rows["connect_ns"] = UNKNOWN, UNKNOWN
    for name in known:
        rows[name] = steps[name]
    # The address of a request or of a timewait minisock is not that of a full socket. The packet belongs to the
    # socket that will be created from the request, or to the socket that the minisock replaces.
    arrived = rows["kind"] == Kind.ARRIVED
    rows["skaddr"][arrived & np.isin(rows["state"], (State.NEW_SYN_RECV, State.TIME_WAIT))] = 0
    rows["state"][arrived & (rows["state"] == State.NEW_SYN_RECV)] = 0
    rows = rows.take(np.lexsort((rows["time_ns"], -rows["kept"].astype(np.int8), _since(rows), rows["skaddr"])))
    return np.delete(rows, _repeats(rows))


def _repeats(rows: Rows) -> Index:
    """Return the indices of repeated steps: the second program at an attach point reported them after the first.

    An interrupt can, rarely, cause that. The repetition directly follows the first report among the steps of its
    packet, or among the changes of its socket. An equal step that follows another step is an event of its own, for
    example the end of the next socket at the address.
    """
    packets = rows["skb"] > 0
    of_states = np.isin(rows["kind"], (Kind.CLOSE, Kind.OPENED, Kind.CHANGED, Kind.DESTROYED))
    order = np.lexsort((rows["time_ns"], np.where(packets, rows["skb"], rows["skaddr"]), packets))
    order = order[(packets | of_states)[order] & (rows["kept"] == 0)[order]]
    repeats = rows["again"][order[1:]] > 0
    for name in ("skaddr", "kind", "oldstate", "state", "skb", "seq", "length", "flags", "lost"):
        repeats &= rows[name][order[1:]] == rows[name][order[:-1]]
    return np.asarray(order[1:][repeats])


def _sorted(rows: Rows) -> Rows:
    """Return rows sorted by socket and time; of the same time, kept rows first."""
    return rows.take(np.lexsort((-rows["kept"].astype(np.int8), rows["time_ns"], rows["socket"])))


def _adopt_packets(rows: Rows) -> None:
    """Assign each packet without a socket, in place, to the socket that has its flow at that time, or has it next.

    A packet without a state gets the state that this socket entered last. A packet that came before a listener's
    child was created gets LISTEN.
    """
    lone = rows["skaddr"] == 0
    if not lone.any():
        return
    flow = flow_numbers(rows)
    order = np.lexsort((rows["time_ns"], flow))
    takes_none = stillborn(rows)
    sockets = order[_nearest((~lone & (rows["rport"] > 0) & ~takes_none)[order], flow[order])]
    entered = (np.isin(rows["kind"], (Kind.CHANGED, Kind.OPENED)) & ~takes_none) | (rows["kept"] > 0)
    states = order[_nearest(entered[order], flow[order], ahead=False)]
    takes = ~lone[sockets] & lone[order] & (rows["time_ns"][order] < _destroyed_ns(rows)[rows["socket"][sockets]])
    packets, sockets, states = order[takes], sockets[takes], states[takes]
    unborn = (rows["kind"][sockets] == Kind.CHANGED) & (rows["oldstate"][sockets] == State.LISTEN)
    unborn &= rows["time_ns"][sockets] > rows["time_ns"][packets]
    found = np.where(entered[states], rows["state"][states], np.where(unborn, State.LISTEN, 0))
    rows["state"][packets] = np.where(rows["state"][packets] > 0, rows["state"][packets], found)
    for name in ("skaddr", "socket"):
        rows[name][packets] = rows[name][sockets]


def _destroyed_ns(rows: Rows) -> npt.NDArray[np.uint64]:
    """Return for each socket the time of its DESTROYED step, the largest integer if it has none."""
    result = np.full(rows["socket"].max() + 1, np.iinfo(np.uint64).max, np.uint64)
    destroyed = rows["kind"] == Kind.DESTROYED
    result[rows["socket"][destroyed]] = rows["time_ns"][destroyed]
    return result


def _find_roles(rows: Rows) -> None:
    """Set the role of each socket, in place."""
    serves = (rows["kind"] == Kind.ACCEPT) | (rows["state"] == State.LISTEN) | (rows["role"] == Role.SERVICE)
    serves |= np.isin(rows["oldstate"], (State.LISTEN, State.SYN_RECV))
    connects = np.isin(rows["kind"], (Kind.CONNECT, Kind.OPENED)) | (rows["role"] == Role.CLIENT)
    roles = np.full(rows["socket"][-1] + 1, Role.UNKNOWN, np.uint8)
    roles[rows["socket"][serves]] = Role.SERVICE
    roles[rows["socket"][connects]] = Role.CLIENT  # also in SYN_RECV: both ends of a simultaneous open are clients
    rows["role"] = roles[rows["socket"]]


def _fill_endpoints(rows: Rows) -> None:
    """Fill in missing namespaces, addresses and ports, in place.

    A socket can connect again: its ends are those of the attempt. The packets of a listener have the addresses of its
    connections. The listener itself has no remote end.
    """
    attempts = rows["socket"] + np.cumsum(rows["opens"])
    of_listener = np.isin(rows["socket"], rows["socket"][rows["state"] == State.LISTEN])
    own = ~of_listener | (rows["kind"] != Kind.ARRIVED)
    _fill(rows, ("netns",), rows["netns"] == 0, rows["netns"] > 0)
    bound = own & (rows["lport"] > 0) & (of_listener | ~_unspecified(rows["laddr"]))
    _fill(rows, ("laddr",), _unspecified(rows["laddr"]), bound, groups=attempts)
    _fill(rows, ("lport",), rows["lport"] == 0, rows["lport"] > 0, groups=attempts)
    _fill(rows, ("raddr", "rport"), (rows["rport"] == 0) & ~of_listener, rows["rport"] > 0, groups=attempts)


def _begins_mptcp(rows: Rows) -> Mask:
    """Return which rows are the first of an MPTCP socket, whose end the kernel does not report."""
    connects = (rows["kind"] == Kind.CONNECT) & (rows["returns"] == 0) & (rows["state"] == State.CLOSE)
    created = (rows["kind"] == Kind.CHANGED) & (rows["state"] != State.CLOSE)
    created &= np.isin(rows["oldstate"], (State.CLOSE, State.LISTEN))
    return np.asarray((rows["skaddr"] == rows["mptcp"]) & (connects | created))


def _ends_mptcp(rows: Rows) -> Mask:
    """Return which rows end an MPTCP socket, except for the return of calls."""
    closed = (rows["kind"] == Kind.CHANGED) & (rows["state"] == State.CLOSE)
    return np.asarray((rows["skaddr"] == rows["mptcp"]) & closed)


def _fill_owners(rows: Rows) -> None:
    """Fill in missing owners, in place. Subflows of MPTCP have the owner of their MPTCP socket.

    A subflow belongs to the MPTCP socket that had the address when the subflow last named it.
    """
    owner = rows["socket"].copy()
    if rows["mptcp"].any():
        _fill(rows, ("mptcp",), rows["mptcp"] == 0, rows["mptcp"] > 0)
        whole = (rows["skaddr"] == rows["mptcp"]) & (rows["skaddr"] > 0)
        order = np.lexsort((rows["time_ns"], rows["mptcp"]))
        parent = np.empty(len(rows), np.intp)
        parent[order] = order[_nearest(whole[order], rows["mptcp"][order])]
        last = np.searchsorted(rows["socket"], rows["socket"], side="right") - 1
        part = (rows["mptcp"] > 0) & whole[parent[last]]
        owner[part] = rows["socket"][parent[last]][part]
    order = np.lexsort((rows["time_ns"], owner))
    sorted_rows, groups, index = rows.take(order), owner[order], np.arange(len(rows))
    tgid = sorted_rows["tgid"]
    named = tgid > 0
    calls = named & (sorted_rows["kind"] != Kind.CLOSE)
    leaves = named & (sorted_rows["kind"] == Kind.CLOSE) & (sorted_rows["returns"] == 1) & (sorted_rows["held"] == 1)
    abandoned = (sorted_rows["abandoned"] == 1) & (sorted_rows["kept"] == 1)
    # If a process closes a socket that others still hold, the owner is the last other process that called before.
    last = np.roll(np.maximum.accumulate(np.where(calls | leaves | abandoned, index, -1)), 1)
    last[0] = -1
    remains = leaves & (last >= np.searchsorted(groups, groups)) & calls[last] & (tgid[last] != tgid)
    # A call without an owner is that of a process outside the PID namespace of the lab.
    outside = ~named & (sorted_rows["kind"] <= Kind.CLOSE) & (sorted_rows["kept"] == 0)
    nobody = (leaves & ~remains) | abandoned | outside
    best = _nearest(named | nobody, groups)
    ahead = best > index
    source = np.where(remains, last, index)[best]
    unknown = nobody[best] & ~ahead
    source = np.where(ahead, best, source)
    for name in ("tgid", "comm"):
        after = np.where(unknown, np.zeros(1, rows.dtype[name]), sorted_rows[name][source])
        rows["holder" if name == "tgid" else "holder_comm"][order] = after
        rows[name][order[~named]] = after[~named]
    rows["abandoned"][order] = unknown


def _unspecified(addresses: npt.NDArray[np.uint8]) -> Mask:
    """Return which addresses are :: or 0.0.0.0."""
    return np.asarray(~addresses[:, :10].any(axis=1) & ~addresses[:, 12:].any(axis=1))


def _find_openings(rows: Rows) -> None:
    """Set `connecting_ns` and `opens`, in place.

    The call in which the socket enters SYN_SENT sends the SYN: connect(), or a send with MSG_FASTOPEN. With
    TCP_FASTOPEN_CONNECT connect() can return in SYN_SENT without a SYN (tcp_fastopen_defer_connect()). The next send
    then sends it (tcp_sendmsg_fastopen()).
    """
    opening = np.isin(rows["kind"], (Kind.CONNECT, Kind.SEND))
    closed = rows["state"] == State.CLOSE
    enters = opening & (rows["returns"] == 0)
    returns = opening & (rows["returns"] == 1)
    begins = enters & closed
    defers = returns & (rows["kind"] == Kind.CONNECT) & (rows["result"] == 0) & (rows["state"] == State.SYN_SENT)
    ends = (returns | (rows["kind"] == Kind.CHANGED)) & closed
    turns = begins | defers | ends | (rows["connecting_ns"] != UNKNOWN)
    rows["connecting_ns"][ends] = UNKNOWN
    rows["connecting_ns"][defers] = DEFERRED
    rows["connecting_ns"][begins] = rows["time_ns"][begins]
    _fill(rows, ("connecting_ns",), ~turns, turns, ahead=False)
    waiting = np.flatnonzero(enters & (rows["connecting_ns"] == DEFERRED) & (rows["state"] == State.SYN_SENT))
    _, first = np.unique(_nearest(turns, rows["socket"], ahead=False)[waiting], return_index=True)
    rows["connecting_ns"][waiting[first]] = rows["time_ns"][waiting[first]]
    turns[waiting[first]] = True
    _fill(rows, ("connecting_ns",), ~turns, turns, ahead=False)

    opened = (rows["oldstate"] == State.CLOSE) & (rows["state"] == State.SYN_SENT)
    entry = _nearest(begins, rows["socket"], ahead=False)
    called = opened & (rows["connecting_ns"] == rows["time_ns"][entry].astype(np.int64)) & begins[entry]
    rows["opens"] = (begins & (rows["kind"] == Kind.CONNECT)) | (opened & ~called)
    rows["opens"][entry[called]] = 1


def _measure_connecting(rows: Rows) -> None:
    """Set `connect_ns`, in place."""
    established = (rows["kind"] == Kind.CHANGED) & (rows["state"] == State.ESTABLISHED)
    active = established & (rows["role"] == Role.CLIENT) & (rows["connecting_ns"] >= 0)
    rows["connect_ns"][active] = (rows["time_ns"].astype(np.int64) - rows["connecting_ns"])[active]
    passive = established & (rows["role"] == Role.SERVICE) & (rows["handshake_us"] > 0)
    rows["connect_ns"][passive] = rows["handshake_us"][passive].astype(np.int64) * 1000
    created = (rows["kind"] == Kind.CHANGED) & (rows["oldstate"] == State.LISTEN)
    since = _nearest(created, rows["socket"], ahead=False)
    fast = passive & (rows["handshake_us"] == CREATED_BY_SYN)
    rows["connect_ns"][fast] = np.where(
        created[since], rows["time_ns"].astype(np.int64) - rows["time_ns"][since], UNKNOWN
    )[fast]
    # Another attempt on the socket starts another measurement.
    opens = rows["opens"] == 1
    _fill(rows, ("connect_ns",), ~opens, (rows["connect_ns"] != UNKNOWN) | opens, ahead=False)


def _fill(
    rows: Rows,
    names: tuple[str, ...],
    lacks: Mask,
    knows: Mask,
    *,
    ahead: bool = True,
    groups: "Integers | None" = None,
) -> None:
    """Set fields of the rows that `lacks`, in place, from the nearest row of the socket that `knows` (see `_nearest`).

    Rows are sorted by socket and time. `groups` divides the sockets further.
    """
    best = _nearest(knows, rows["socket"] if groups is None else groups, ahead=ahead)
    for name in names:
        rows[name][lacks] = rows[name][best][lacks]


def _nearest(knows: Mask, groups: Integers, *, ahead: bool = True) -> Index:
    """Return for each row the index of the last row of its group, up to itself, that `knows`.

    If there is none: the next row of the group that `knows`, if `ahead`; else the row itself. Rows are sorted by group.
    """
    index = np.arange(len(knows))
    start = np.searchsorted(groups, groups)
    behind = np.maximum.accumulate(np.where(knows, index, -1))
    result = np.where(behind >= start, behind, index)
    if ahead:
        end = np.searchsorted(groups, groups, side="right")
        upcoming = np.minimum.accumulate(np.where(knows, index, len(knows))[::-1])[::-1]
        result = np.where((behind < start) & (upcoming < end), upcoming, result)
    return result
