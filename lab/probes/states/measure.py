"""From events to measurements: pure functions over arrays, no kernel, no clock, no files."""

import numpy as np
import numpy.typing as npt

from lab.arrays import UNKNOWN, Events, Index, Integers, Mask, Rows, flow_numbers
from lab.tcp import State


def transitions(changes: Events) -> Rows:
    """State changes, in order of time, each with the time its socket had spent in the old state.

    `changes` are events of the probe `states`. The result has their fields and

    - `socket`: which socket, counted from 0. Kernel addresses are reused; a socket begins where it leaves CLOSE or is
      born of a listener, and ends in CLOSE or TIME_WAIT.
    - `duration_ns`: time in the old state, or `UNKNOWN`: for a socket's first row, after a lost event, and for SYN_RECV of
      a passive open when the kernel made no sample (see below).

    What a row could not know yet is filled in from the socket's other rows: ports, addresses, owner.

    SYN_RECV of a passive open is the time from SYN-ACK to final ACK as the kernel measures it
    (`tcp_synack_rtt_meas()`, microseconds), since the socket itself only appears at the final ACK. FIN_WAIT2 goes on
    when a timewait minisock replaces the socket, until that takes the peer's FIN.
    """
    rows = _with_minisocks(_by_socket(changes))
    previous = np.roll(rows, 1)
    begins = _begins(rows, previous)
    begins[:1] = True
    rows["socket"] = np.cumsum(begins) - 1
    chained = ~begins & (rows["oldstate"] == previous["newstate"])
    since = rows["time_ns"].astype(np.int64) - previous["time_ns"].astype(np.int64)
    rows["duration_ns"] = np.where(chained, since, UNKNOWN)
    passive = chained & (rows["oldstate"] == State.SYN_RECV) & (previous["oldstate"] == State.LISTEN)
    handshake_ns = rows["handshake_rtt_us"].astype(np.int64) * 1000
    rows["duration_ns"] = np.where(passive, np.where(handshake_ns > 0, handshake_ns, UNKNOWN), rows["duration_ns"])
    _fill_from_same_socket(rows)
    return rows[np.argsort(rows["time_ns"], kind="stable")]


def _by_socket(changes: Events) -> Rows:
    """Sort by kernel address and time, with room for what is to be found out."""
    found_out = {"socket": "i8", "duration_ns": "i8", "minisock": "u1", "carried": "u1"}
    known = {name: changes.dtype[name] for name in changes.dtype.names or ()}
    rows = np.zeros(len(changes), list((found_out | known).items()))
    for name in changes.dtype.names or ():
        rows[name] = changes[name]
    rows = rows[np.lexsort((rows["time_ns"], rows["skaddr"]))]
    # An interrupt between the program's two functions can make the second repeat what the first has reported.
    repeated = (rows["again"][1:] > 0) & (rows["skaddr"][1:] > 0)
    for name in ("skaddr", "oldstate", "newstate", "lost"):
        repeated &= rows[name][1:] == rows[name][:-1]
    second = np.flatnonzero(repeated) + 1
    return np.delete(rows, second[~_strangers(rows[second], rows[second - 1])])


def _begins(rows: Rows, previous: Rows) -> Mask:
    """Tell for each row, sorted by socket and time, whether another socket begins there."""
    begins = rows["skaddr"] != previous["skaddr"]
    begins |= _is_birth(rows)
    begins |= np.isin(previous["newstate"], (State.CLOSE, State.TIME_WAIT))
    # After a loss nobody can tell whether it is the same socket; what was carried is the only row of its own.
    begins |= (rows["lost"] != previous["lost"]) | (rows["carried"] > 0)
    return begins | _strangers(rows, previous)


def _strangers(rows: Rows, previous: Rows) -> Mask:
    """Tell which rows have other ends than those before them: all between the two was missed, and the address is used again.

    Where a kernel does not run the program (`lab.ebpf.recording.Recording`), it misses several events in a row.
    """
    locals_known, peers_known = ((rows[name] > 0) & (previous[name] > 0) for name in ("lport", "rport"))
    other_peer = (rows["rport"] != previous["rport"]) | (rows["raddr"] != previous["raddr"]).any(axis=1)
    return (locals_known & (rows["lport"] != previous["lport"])) | (peers_known & other_peer)


def _is_birth(rows: Rows) -> Mask:
    """Tell which rows can only be a socket's first: leaving CLOSE, and a listener's child."""
    child = (rows["oldstate"] == State.LISTEN) & (rows["newstate"] == State.SYN_RECV)
    return child | (rows["oldstate"] == State.CLOSE)


def _with_minisocks(rows: Rows) -> Rows:
    """Give each segment that a minisock took to the socket it stands for, and drop those that belong to none.

    A minisock has no kernel address in common with its socket, but the same flow: it is the last socket of that flow
    to have entered FIN_WAIT2 before, if that has not left it since.
    """
    is_minisock = rows["skaddr"] == 0
    if not is_minisock.any():
        return rows
    sockets, segments = rows[~is_minisock], rows[is_minisock]
    waits = sockets["newstate"] == State.FIN_WAIT2
    nearby = np.flatnonzero(np.isin(_ports(sockets), _ports(segments)))
    candidates = np.concatenate([sockets[nearby], segments])
    is_segment = np.arange(len(candidates)) >= len(nearby)
    is_wait = np.append(waits[nearby], np.zeros(len(segments), bool))
    flow = flow_numbers(candidates)
    order = np.lexsort((candidates["time_ns"], flow))
    flow, is_segment, is_wait = flow[order], is_segment[order], is_wait[order]
    # Only the first segment after a wait counts: what follows it reaches a minisock that has already moved on. And any
    # other row of the flow tells of a later connection, for which the minisock has made room.
    takes = np.flatnonzero(is_segment[1:] & is_wait[:-1] & (flow[1:] == flow[:-1])) + 1
    taken, givers = order[takes] - len(nearby), nearby[order[takes - 1]]
    return np.insert(sockets, givers + 1, _adopted(segments[taken], sockets[givers]))


def superseded(latest: Rows) -> Mask:
    """Tell of which sockets the wait in FIN_WAIT2 is over since another one has the flow; `latest` is one row of each."""
    waits = latest["newstate"] == State.FIN_WAIT2
    nearby = np.flatnonzero(np.isin(_ports(latest), _ports(latest[waits])))
    flow = flow_numbers(latest[nearby])
    order = np.lexsort((latest["time_ns"][nearby], flow))
    followed = np.append(flow[order][1:] == flow[order][:-1], False)[: len(order)]
    over = np.zeros(len(latest), bool)
    over[nearby[order[followed]]] = True
    return over & waits


def _ports(rows: Rows) -> npt.NDArray[np.uint32]:
    return rows["lport"].astype(np.uint32) << 16 | rows["rport"]


def _adopted(segments: Rows, sockets: Rows) -> Rows:
    """Return the segments' rows under their sockets' identity."""
    adopted = segments.copy()
    for name in ("skaddr", "laddr", "raddr", "netns", "lport", "rport"):
        adopted[name] = sockets[name]
    adopted["minisock"] = 1
    return adopted


def _fill_from_same_socket(rows: Rows) -> None:
    """Fill in place what some rows of a socket know and others do not; `rows` are sorted by socket."""
    if not len(rows):
        return
    knows_ports = (rows["lport"] > 0).astype(np.int8) + (rows["rport"] > 0)
    best = _first_of_highest(rows["socket"], knows_ports)
    for name in ("laddr", "raddr", "lport", "rport"):
        rows[name] = rows[name][best]
    owner = _first_of_highest(rows["socket"], (rows["tgid"] > 0).astype(np.int8))
    nobody = rows["tgid"] == 0
    for name in ("tgid", "comm"):
        rows[name][nobody] = rows[name][owner][nobody]


def _first_of_highest(groups: Integers, score: npt.NDArray[np.int8]) -> Index:
    """For each row, the index of the first row of its group that has the group's highest score."""
    order = np.lexsort((-score, groups))
    starts = np.searchsorted(groups[order], np.arange(groups[-1] + 1))
    return order[starts][groups]
