"""What belongs together among the steps of many connections: pure functions over the events of the probe `analyse`.

An event tells what its own place in the kernel knows. What it cannot know there, such as the owner of a socket in softirq, is
known to other events of the same socket; here they are joined.
"""

import re
from collections.abc import Collection
from enum import IntEnum
from functools import cache

import numpy as np
import numpy.typing as npt

from lab.arrays import UNKNOWN, Events, Index, Integers, Mask, Rows, flow_numbers
from lab.paths import SOURCES
from lab.tcp import State


class Kind(IntEnum):
    """What a step is: `enum kind` in bpf/analyse/event.h (a test compares the two). Up to CLOSE they are system calls."""

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


class Role(IntEnum):
    """Which end of a connection a socket is. A listener counts as service."""

    UNKNOWN = 0
    CLIENT = 1
    SERVICE = 2


@cache
def points() -> tuple[str, ...]:
    """Names of the places where steps are observed, in the order of `enum point` in bpf/analyse/event.h."""
    (body,) = re.findall(r"enum point \{(.*?)\};", (SOURCES / "analyse/event.h").read_text(), re.DOTALL)
    return tuple(re.findall(r"\bAT_(\w+)", body))


def tells_work(places: Collection[str]) -> bool:
    """Tell from the attach points whether what TCP does for a call is observed: before Linux 6.3 no tracepoint tells of it."""
    return any(place.endswith((":tcp_recvmsg", ":sock_recv_length")) for place in places)


_FOUND_OUT = {
    "socket": "i8",
    "begun_ns": "u8",
    "connecting_ns": "i8",
    "connect_ns": "i8",
    "role": "u1",
    "carried": "u1",
}


def joined(steps: Events) -> Rows:
    """Join the steps of each socket; returns them in order of time, with the events' fields and these.

    - `socket`: a number for each socket. Kernel addresses are reused: a socket ends where the kernel destroys it.
    - `begun_ns`: its first step.
    - `role`: `Role.CLIENT` when it was seen to connect, `SERVICE` when it was seen to listen or came from a listener.
    - `connecting_ns`: when connect() was entered. `connect_ns`: how long it was from there to ESTABLISHED; of a passive open, from
      SYN-ACK to ACK as the kernel measured it. On rows from ESTABLISHED on, else `UNKNOWN`.

    What a row could not know is filled in from the others of its socket: addresses, ports, owner. A step in softirq belongs to
    the process that made the last call on the socket, or when there was none before, the first; with none at all to nobody.
    """
    rows = _by_socket(steps)
    if not len(rows):
        return rows
    late = _late(rows)
    before = np.maximum.accumulate(np.where(late, -1, np.arange(len(rows))))
    previous = rows[["skaddr", "kind", "lost"]][np.roll(before, 1)]
    begins = (rows["skaddr"] != previous["skaddr"]) | (~late & (previous["kind"] == Kind.DESTROYED))
    # After a loss nobody can tell whether it is the same socket; a packet without a socket stands alone.
    begins |= (rows["lost"] != previous["lost"]) | (rows["skaddr"] == 0)
    begins[0] = True
    rows["socket"] = np.cumsum(begins) - 1
    begun_ns = np.where(rows["begun_ns"] > 0, rows["begun_ns"], _since(rows))[begins]
    rows = _sorted(rows)
    _fill_endpoints(rows)
    _adopt_packets(rows)
    rows = _sorted(rows)
    rows["begun_ns"] = begun_ns[rows["socket"]]
    _find_roles(rows)
    _fill(rows, ("tgid", "comm"), rows["tgid"] == 0, rows["tgid"] > 0)
    _measure_connecting(rows)
    return rows[np.argsort(rows["time_ns"], kind="stable")]


def latency_ns(rows: Rows) -> Integers:
    """How long it took what each row is the end of: a call from where it was entered, a connection's opening. Else `UNKNOWN`."""
    time_ns = rows["time_ns"].astype(np.int64)
    calls = np.where(rows["enter_ns"] > 0, time_ns - rows["enter_ns"].astype(np.int64), UNKNOWN)
    opened = (rows["kind"] == Kind.CHANGED) & (rows["state"] == State.ESTABLISHED)
    return np.where(opened, rows["connect_ns"], calls)


def carried(rows: Rows, forget_ns: int) -> Rows:
    """Return what `joined` has to be given, before further events, of the sockets in its last result.

    One row for each socket, and a second where it was destroyed after `forget_ns`: calls on it may still be about to return.
    """
    rows = rows[~stillborn(rows)]
    _, last = np.unique(rows["socket"][::-1], return_index=True)
    known = rows[len(rows) - 1 - last]
    ends = rows[rows["kind"] == Kind.DESTROYED]
    forgotten = ends["socket"][ends["time_ns"] <= forget_ns]
    known = known[(known["skaddr"] > 0) & ~np.isin(known["socket"], forgotten)]
    known["kind"], known["enter_ns"], known["returns"] = Kind.PROCESSED, 0, 0  # a kind that says nothing of its own
    known["time_ns"] = known["begun_ns"]
    kept = np.concatenate([known, ends[~np.isin(ends["socket"], forgotten)]])
    kept["carried"] = 1
    return kept


def stillborn(rows: Rows) -> Mask:
    """Tell which rows are of a listener's child that came too late: two processors took segments for one request, each made a child.

    The kernel closes it at once, and nothing ever comes to it (`inet_ehash_nolisten()`).
    """
    sockets = np.zeros(rows["socket"].max(initial=-1) + 1, bool)
    closed = (rows["kind"] == Kind.CHANGED) & (rows["oldstate"] == State.SYN_RECV) & (rows["state"] == State.CLOSE)
    sockets[rows["socket"][closed]] = True
    sockets[rows["socket"][~np.isin(rows["kind"], (Kind.CHANGED, Kind.DESTROYED))]] = False
    return np.asarray(sockets[rows["socket"]])


def _since(rows: Rows) -> npt.NDArray[np.uint64]:
    """From when on a row's socket was this one: what ends, close() or state processing, can do so when it is gone."""
    accepts = rows["kind"] == Kind.ACCEPT  # what accept() returns may not have been there when it was entered
    return np.where((rows["enter_ns"] > 0) & ~accepts, rows["enter_ns"], rows["time_ns"])


def _late(rows: Rows) -> Mask:
    """Tell which packets came to a socket in CLOSE, where it receives nothing any more; nor does one that has its address next, yet.

    They had waited for whoever had the socket (`sk_backlog`), who has ended it since.
    """
    closed = (rows["kind"] == Kind.PROCESSED) & (rows["oldstate"] == State.CLOSE)
    closed |= (rows["kind"] == Kind.ARRIVED) & (rows["state"] == State.CLOSE)
    return np.asarray(closed & (rows["carried"] == 0))


def _by_socket(steps: Events) -> Rows:
    """Sort by kernel address and time, with room for what is to be found out."""
    known = {name: steps.dtype[name] for name in steps.dtype.names or ()}
    rows = np.zeros(len(steps), list((_FOUND_OUT | known).items()))
    rows["connecting_ns"], rows["connect_ns"] = UNKNOWN, UNKNOWN
    for name in known:
        rows[name] = steps[name]
    # A packet that comes to a request or to a timewait minisock has an address that is no full socket's. It belongs to what will be
    # born of the request, or to the socket that the minisock stands for.
    arrived = rows["kind"] == Kind.ARRIVED
    rows["skaddr"][arrived & np.isin(rows["state"], (State.NEW_SYN_RECV, State.TIME_WAIT))] = 0
    rows["state"][arrived & (rows["state"] == State.NEW_SYN_RECV)] = 0
    rows = rows[np.lexsort((rows["time_ns"], -rows["carried"].astype(np.int8), _since(rows), rows["skaddr"]))]
    return np.delete(rows, _repeats(rows))


def _repeats(rows: Rows) -> Index:
    """Find what the probe's second function has reported as well as the first, which an interrupt can, rarely, make it do.

    Until it has, nothing else can have become of the packet or of the socket's state: what looks alike but comes after something
    else, such as the end of the next socket at the address, is an event of its own.
    """
    packets = rows["skb"] > 0
    of_states = np.isin(rows["kind"], (Kind.CLOSE, Kind.OPENED, Kind.CHANGED, Kind.DESTROYED))
    order = np.lexsort((rows["time_ns"], np.where(packets, rows["skb"], rows["skaddr"]), packets))
    order = order[(packets | of_states)[order] & (rows["carried"] == 0)[order]]
    repeats = rows["again"][order[1:]] > 0
    for name in ("skaddr", "kind", "oldstate", "state", "skb", "seq", "length", "flags", "lost"):
        repeats &= rows[name][order[1:]] == rows[name][order[:-1]]
    return np.asarray(order[1:][repeats])


def _sorted(rows: Rows) -> Rows:
    """Sort by socket and time, what is carried before what is new."""
    return rows[np.lexsort((-rows["carried"].astype(np.int8), rows["time_ns"], rows["socket"]))]


def _adopt_packets(rows: Rows) -> None:
    """Give each packet whose socket was not looked up yet, in place, the socket that has its flow by then, or has it next.

    Unless the packet itself tells the state, it is the one that this socket had entered last; what came before a listener's child
    was born came to a LISTEN.
    """
    lone = rows["skaddr"] == 0
    if not lone.any():
        return
    flow = flow_numbers(rows)
    order = np.lexsort((rows["time_ns"], flow))
    takes_none = stillborn(rows)
    sockets = order[_nearest((~lone & (rows["rport"] > 0) & ~takes_none)[order], flow[order])]
    entered = (np.isin(rows["kind"], (Kind.CHANGED, Kind.OPENED)) & ~takes_none) | (rows["carried"] > 0)
    states = order[_nearest(entered[order], flow[order], ahead=False)]
    gone_ns = np.full(rows["socket"].max() + 1, np.iinfo(np.uint64).max, np.uint64)
    destroyed = rows["kind"] == Kind.DESTROYED
    gone_ns[rows["socket"][destroyed]] = rows["time_ns"][destroyed]
    takes = ~lone[sockets] & lone[order] & (rows["time_ns"][order] < gone_ns[rows["socket"][sockets]])
    packets, sockets, states = order[takes], sockets[takes], states[takes]
    unborn = (rows["kind"][sockets] == Kind.CHANGED) & (rows["oldstate"][sockets] == State.LISTEN)
    unborn &= rows["time_ns"][sockets] > rows["time_ns"][packets]
    found = np.where(entered[states], rows["state"][states], np.where(unborn, State.LISTEN, 0))
    rows["state"][packets] = np.where(rows["state"][packets] > 0, rows["state"][packets], found)
    for name in ("skaddr", "socket"):
        rows[name][packets] = rows[name][sockets]


def _find_roles(rows: Rows) -> None:
    serves = (rows["kind"] == Kind.ACCEPT) | (rows["state"] == State.LISTEN) | (rows["role"] == Role.SERVICE)
    serves |= np.isin(rows["oldstate"], (State.LISTEN, State.SYN_RECV))
    connects = np.isin(rows["kind"], (Kind.CONNECT, Kind.OPENED)) | (rows["role"] == Role.CLIENT)
    roles = np.full(rows["socket"][-1] + 1, Role.UNKNOWN, np.uint8)
    roles[rows["socket"][serves]] = Role.SERVICE
    roles[rows["socket"][connects]] = Role.CLIENT  # of a simultaneous open, which comes to SYN_RECV, both ends are
    rows["role"] = roles[rows["socket"]]


def _fill_endpoints(rows: Rows) -> None:
    """Fill in addresses and ports. A listener's packets have those of its connections, it has no remote ones of its own."""
    of_listener = np.isin(rows["socket"], rows["socket"][rows["state"] == State.LISTEN])
    own = ~of_listener | (rows["kind"] != Kind.ARRIVED)
    _fill(rows, ("netns",), rows["netns"] == 0, rows["netns"] > 0)
    _fill(
        rows, ("laddr",), _nowhere(rows["laddr"]), own & (rows["lport"] > 0) & (of_listener | ~_nowhere(rows["laddr"]))
    )
    _fill(rows, ("lport",), rows["lport"] == 0, rows["lport"] > 0)
    _fill(rows, ("raddr", "rport"), (rows["rport"] == 0) & ~of_listener, rows["rport"] > 0)


def _nowhere(addresses: npt.NDArray[np.uint8]) -> Mask:
    """Tell which addresses are :: or 0.0.0.0."""
    return np.asarray(~addresses[:, :10].any(axis=1) & ~addresses[:, 12:].any(axis=1))


def _measure_connecting(rows: Rows) -> None:
    begins = (rows["kind"] == Kind.CONNECT) & (rows["returns"] == 0) & (rows["state"] == State.CLOSE)
    rows["connecting_ns"][begins] = rows["time_ns"][begins]
    _fill(rows, ("connecting_ns",), ~begins, rows["connecting_ns"] != UNKNOWN, ahead=False)
    established = (rows["kind"] == Kind.CHANGED) & (rows["state"] == State.ESTABLISHED)
    active = established & (rows["role"] == Role.CLIENT) & (rows["connecting_ns"] != UNKNOWN)
    rows["connect_ns"][active] = (rows["time_ns"].astype(np.int64) - rows["connecting_ns"])[active]
    passive = established & (rows["role"] == Role.SERVICE) & (rows["handshake_us"] > 0)
    rows["connect_ns"][passive] = rows["handshake_us"][passive].astype(np.int64) * 1000
    # A socket that connects once more begins anew.
    _fill(rows, ("connect_ns",), ~begins, (rows["connect_ns"] != UNKNOWN) | begins, ahead=False)


def _fill(
    rows: Rows,
    names: tuple[str, ...],
    lacks: Mask,
    knows: Mask,
    *,
    ahead: bool = True,
) -> None:
    """Fill in place what some rows of a socket lack from the nearest that `knows`; rows are sorted by socket and time."""
    best = _nearest(knows, rows["socket"], ahead=ahead)
    for name in names:
        rows[name][lacks] = rows[name][best][lacks]


def _nearest(knows: Mask, groups: Integers, *, ahead: bool = True) -> Index:
    """For each row, sorted by group, the last row of its group up to itself that `knows`; with none, `ahead`, the next one.

    A row of a group where none does gets itself.
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
