"""From events of the probe `states` to the time spent in each state.

What lives here: pure functions over arrays. What does not: kernel, clock, files; the batch-by-batch version
(tracker.py).
"""

import numpy as np
import numpy.typing as npt

from lab.arrays import UNKNOWN, Events, Index, Integers, Mask, Rows, extended, flow_numbers, in_order
from lab.tcp import CREATED_BY_SYN, State


def transitions(changes: Events) -> Rows:
    """Return the state changes in order of time, each with the time that its socket spent in the old state.

    `changes` are events of the probe `states`. The result has their fields and

    - `socket`: number of the socket, from 0. The kernel reuses addresses: a socket begins when it leaves CLOSE or when
      a listener creates it, and ends in CLOSE or TIME_WAIT.
    - `gap`: 1 if at least one change before this one is missing and not counted as lost: the old state is not the one
      that the socket entered last, or its kernel address is that of a socket that has not ended.
    - `duration_ns`: time in the old state. `UNKNOWN` in a socket's first row, after a lost event, and for SYN_RECV of a
      passive open of which the kernel took no sample.

    Ports and addresses that a row lacks are taken from other rows of the same socket. A row has the owner whose system
    call made the change. After the owner has closed the socket, it is the owner of all rows. A row in between has none:
    by then another process may have the socket (fork(), SCM_RIGHTS).

    SYN_RECV of a passive open is the kernel's own sample of the time from SYN-ACK to final ACK
    (`tcp_synack_rtt_meas()`, in microseconds), because the socket is created only at the final ACK, except for data in the SYN
    (RFC 7413). FIN_WAIT2 continues when a timewait minisock replaces the socket, until the minisock receives the peer's FIN.
    """
    rows = _with_minisocks(_by_socket(changes))
    previous = rows.take(np.arange(len(rows)) - 1)
    begins = _begins(rows, previous)
    begins[:1] = True
    rows["socket"] = np.cumsum(begins) - 1
    chained = ~begins & (rows["oldstate"] == previous["newstate"])
    since = rows["time_ns"].astype(np.int64) - previous["time_ns"].astype(np.int64)
    rows["duration_ns"] = np.where(chained, since, UNKNOWN)
    # FIN_WAIT2: close() replaces the socket with a minisock without a change of state.
    ended = np.isin(previous["newstate"], (State.CLOSE, State.TIME_WAIT, State.FIN_WAIT2))
    same_address = (rows["skaddr"] == previous["skaddr"]) & (rows["lost"] == previous["lost"])
    same_address[:1] = False
    rows["gap"] = same_address & (rows["carried"] == 0) & ~np.where(begins, ended, chained)
    passive = chained & (rows["oldstate"] == State.SYN_RECV) & (previous["oldstate"] == State.LISTEN)
    passive &= rows["handshake_rtt_us"] != CREATED_BY_SYN
    handshake_ns = rows["handshake_rtt_us"].astype(np.int64) * 1000
    rows["duration_ns"] = np.where(passive, np.where(handshake_ns > 0, handshake_ns, UNKNOWN), rows["duration_ns"])
    _fill_from_same_socket(rows)
    return in_order(rows)


def _by_socket(changes: Events) -> Rows:
    """Sort by kernel address and time, add the fields of the result, and remove repeated reports."""
    rows = extended(changes, socket="i8", duration_ns="i8", gap="u1", minisock="u1", carried="u1")
    rows = rows.take(np.lexsort((rows["time_ns"], rows["skaddr"])))
    # After an interrupt between the first and the second program, the second can report the same change once more.
    repeated = (rows["again"][1:] > 0) & (rows["skaddr"][1:] > 0)
    for name in ("skaddr", "oldstate", "newstate", "lost"):
        repeated &= rows[name][1:] == rows[name][:-1]
    second = np.flatnonzero(repeated) + 1
    second = second[~_flow_differs(rows.take(second), rows.take(second - 1))]
    return np.delete(rows, second) if len(second) else rows


def _begins(rows: Rows, previous: Rows) -> Mask:
    """Mark the rows, sorted by kernel address and time, at which another socket begins."""
    begins = rows["skaddr"] != previous["skaddr"]
    begins |= _is_birth(rows)
    begins |= np.isin(previous["newstate"], (State.CLOSE, State.TIME_WAIT))
    # After a lost event the socket may be another one. A carried row is the only row of its socket in an earlier batch.
    begins |= (rows["lost"] != previous["lost"]) | (rows["carried"] > 0)
    return begins | _flow_differs(rows, previous)


def _flow_differs(rows: Rows, previous: Rows) -> Mask:
    """Mark the rows with another local port or peer than the row before: another socket has the same kernel address.

    This happens when the kernel withholds several events in a row from the program (`lab.recording.recording.Recording`).
    """
    lports_known, peers_known = ((rows[name] > 0) & (previous[name] > 0) for name in ("lport", "rport"))
    other_peer = (rows["rport"] != previous["rport"]) | (rows["raddr"] != previous["raddr"]).any(axis=1)
    return (lports_known & (rows["lport"] != previous["lport"])) | (peers_known & other_peer)


def _is_birth(rows: Rows) -> Mask:
    """Mark the rows that can only be a socket's first: it leaves CLOSE, or a listener creates it."""
    child = (rows["oldstate"] == State.LISTEN) & (rows["newstate"] == State.SYN_RECV)
    return child | (rows["oldstate"] == State.CLOSE)


def _with_minisocks(rows: Rows) -> Rows:
    """Assign each segment received by a minisock to the socket that the minisock replaced; drop unmatched segments.

    A minisock has the flow of its socket, but another kernel address. Its socket is the last one of that flow to enter
    FIN_WAIT2 before the segment, if the socket has not left FIN_WAIT2 since.
    """
    is_minisock = rows["skaddr"] == 0
    if not is_minisock.any():
        return rows
    sockets, segments = rows.compress(~is_minisock), rows.compress(is_minisock)
    waits = sockets["newstate"] == State.FIN_WAIT2
    nearby = np.flatnonzero(np.isin(_ports(sockets), _ports(segments)))
    candidates = np.concatenate([sockets[nearby], segments])
    is_segment = np.arange(len(candidates)) >= len(nearby)
    is_wait = np.append(waits[nearby], np.zeros(len(segments), bool))
    flow = flow_numbers(candidates)
    order = np.lexsort((candidates["time_ns"], flow))
    flow, is_segment, is_wait = flow[order], is_segment[order], is_wait[order]
    # Only the first segment after the wait begins ends it; the minisock has left FIN_WAIT2 by the next one. Any other
    # row of the flow belongs to a later connection, which has replaced the minisock.
    ends_wait = np.flatnonzero(is_segment[1:] & is_wait[:-1] & (flow[1:] == flow[:-1])) + 1
    matched, waiting = order[ends_wait] - len(nearby), nearby[order[ends_wait - 1]]
    return np.insert(sockets, waiting + 1, _as_socket_rows(segments[matched], sockets[waiting]))


def superseded(latest: Rows) -> Mask:
    """Mark the sockets in FIN_WAIT2 whose flow a later socket uses. `latest` has one row per socket."""
    waits = latest["newstate"] == State.FIN_WAIT2
    nearby = np.flatnonzero(np.isin(_ports(latest), _ports(latest[waits])))
    flow = flow_numbers(latest[nearby])
    order = np.lexsort((latest["time_ns"][nearby], flow))
    has_successor = np.append(flow[order][1:] == flow[order][:-1], False)[: len(order)]
    replaced = np.zeros(len(latest), bool)
    replaced[nearby[order[has_successor]]] = True
    return replaced & waits


def _ports(rows: Rows) -> npt.NDArray[np.uint32]:
    return rows["lport"].astype(np.uint32) << 16 | rows["rport"]


def _as_socket_rows(segments: Rows, sockets: Rows) -> Rows:
    """Return the segments' rows with the address, namespace and flow of their sockets."""
    rows = segments.copy()
    for name in ("skaddr", "laddr", "raddr", "netns", "lport", "rport"):
        rows[name] = sockets[name]
    rows["minisock"] = 1
    return rows


def _fill_from_same_socket(rows: Rows) -> None:
    """Fill in addresses, ports and owner from other rows of the same socket, in place.

    `rows` are sorted by socket and time.
    """
    if not len(rows):
        return
    ports_known = (rows["lport"] > 0).astype(np.int8) + (rows["rport"] > 0)
    best = _first_of_highest(rows["socket"], ports_known)
    for name in ("laddr", "raddr", "lport", "rport"):
        rows[name] = rows[name].take(best, axis=0)
    closing = np.maximum.accumulate(np.where(rows["closed"] > 0, np.arange(len(rows)), 0))
    orphans = (rows["tgid"] == 0) & (rows["closed"][closing] > 0) & (rows["socket"] == rows["socket"][closing])
    for name in ("tgid", "tid", "comm", "thread", "closed"):
        rows[name][orphans] = rows[name][closing[orphans]]


def _first_of_highest(groups: Integers, score: npt.NDArray[np.int8]) -> Index:
    """Return for each row the index of the first row in its group that has the highest score of the group."""
    order = np.lexsort((-score, groups))
    starts = np.searchsorted(groups[order], np.arange(groups[-1] + 1))
    return order[starts][groups]
