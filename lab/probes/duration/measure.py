"""From the SYN, FIN and RST segments of connections to one row for each connection: pure functions over arrays.

What lives here: the effect of each segment on its connection. What does not: the grouping of segments by connection
(lab/probes/duration/grouping.py), and the table of open connections (lab/probes/duration/tracker.py).
"""

from dataclasses import dataclass

import numpy as np

from lab.arrays import UNKNOWN, Events, Index, Integers, Mask, Rows
from lab.packet import ACK
from lab.probes.duration.grouping import Grouped, Kind, counted, group
from lab.tcp import SYN_TIMEOUT_NS, Ended, Side

_FASTEST_BYTES_PER_NS = 50
"""No connection carries more than 400 Gbit/s."""
_FIRST_WINDOW = 1 << 16
"""What a sender can send before the handshake is over (RFC 7413): the window in a SYN is not scaled (RFC 7323, 2.2)."""
_ONE = np.uint32(1)

_ENDS = [("saddr", "u1", 16), ("daddr", "u1", 16), ("sport", "u2"), ("dport", "u2")]
_PLACE = [("ifindex", "u4"), ("vlan", "u2"), ("inner_vlan", "u2")]
_FACTS = [("seen", "u1"), ("roles_known", "u1"), ("answered", "u1"), ("only_from", "u1")]
_FACTS += [("ended", "u1"), ("closed_first", "u1")]
_COUNTS = [("syn_retransmissions", "i8"), ("fin_retransmissions", "i8")]
_TIMES = ("start_ns", "last_syn_ns", "synack_ns", "end_ns", "over_ns", "duration_ns", "second_fin_ns")
_ROW = np.dtype([*_ENDS, *_PLACE, *_FACTS, *_COUNTS, *((name, "i8") for name in _TIMES)])


@dataclass(frozen=True)
class History:
    """The decisive segments of each connection, as indices into the grouped segments; `never` if there is none.

    - `started`: the first segment of the connection is a SYN.
    - `answer`: the first SYN-ACK.
    - `established`: the first segment that proves that the SYN was accepted.
    - `fins`: mask of all valid FINs, including retransmissions.
    - `client_fin`, `server_fin`: the first FIN of each side.
    - `refusal`: the RST that answers the SYN; `reset`: any other valid RST.
    - `one_way`: the connection's first FIN or RST came before any segment of the other side. Each side receives a SYN
      or SYN-ACK before it sends a FIN or RST, so the other side's segments pass another interface.
    """

    started: Mask
    answer: Index
    established: Index
    fins: Mask
    client_fin: Index
    server_fin: Index
    refusal: Index
    reset: Index
    one_way: Mask

    @property
    def stop(self) -> Index:
        """The RST that refused or reset the connection."""
        return np.minimum(self.refusal, self.reset)

    @property
    def second_fin(self) -> Index:
        """The first FIN of the side that closed last."""
        return np.maximum(self.client_fin, self.server_fin)

    def over(self, never: int) -> Index:
        """Return the segment that ends the connection: the second FIN, or the RST; with one side only, its FIN."""
        return np.where(self.one_way, self.end, np.where(self.second_fin < never, self.second_fin, self.stop))

    @property
    def end(self) -> Index:
        """The first FIN or RST."""
        return np.minimum(np.minimum(self.client_fin, self.server_fin), self.stop)


@dataclass(frozen=True)
class Followed:
    """Connections with their segments.

    `rows` has one row for each connection, including those that are not reported (`seen` 0). `relevant` marks the
    segments that the rows depend on, including retransmissions.
    """

    rows: Rows
    grouped: Grouped
    relevant: Mask


def lifetimes(segments: Events, now_ns: int, syn_timeout_ns: int = SYN_TIMEOUT_NS) -> Rows:
    """Return one row for each connection, as known at `now_ns`, in order of start (of end, if the start is unknown).

    `segments` are events of the probe `duration`, in any order. Times are nanoseconds, points in time on
    `CLOCK_MONOTONIC`; unknown times are `UNKNOWN` (-1). Fields of a row:

    - `saddr`, `sport`: the client, that is the sender of the first SYN. `daddr`, `dport`: the server.
    - `roles_known`: 0 if neither SYN nor SYN-ACK was seen; `saddr` is then the sender of the first segment seen.
    - `only_from`: the side whose segments alone were seen (`Side`), if the connection has ended so; else `NOBODY`.
      `closed_first` is then unknown, and all times are those of that side: from its SYN or SYN-ACK to its FIN or RST.
    - `start_ns`: time of the first SYN; unknown for a connection that was open before.
    - `last_syn_ns`: time of the client's last SYN.
    - `synack_ns`: from the first SYN to the first SYN-ACK. `answered`: the server has accepted the SYN.
    - `end_ns`: time of the first FIN or RST, sent by `closed_first` (`Side`).
    - `duration_ns`: from the first SYN to `end_ns`.
    - `second_fin_ns`: from the first SYN to the other side's FIN.
    - `over_ns`: time of the second FIN, or of the RST. `ended`: how the connection ended (`Ended`).
    - `syn_retransmissions`: of the client. `fin_retransmissions`: of both sides together. Both count until `over_ns`.
    """
    rows = follow(counted(segments), now_ns, syn_timeout_ns).rows
    rows = rows[rows["seen"] > 0]
    return rows.take(np.argsort(np.where(rows["start_ns"] == UNKNOWN, rows["end_ns"], rows["start_ns"]), kind="stable"))


def follow(segments: Events, now_ns: int, syn_timeout_ns: int) -> Followed:
    """Find the connections in `segments` (from `counted`); return them with their rows as known at `now_ns`."""
    grouped = group(segments, syn_timeout_ns)
    history = _history(grouped)
    never, first_kind = grouped.never, grouped.kind[grouped.heads]
    rows = np.zeros(len(grouped.heads), _ROW)
    _name_ends(rows, grouped.segments[grouped.heads], by_server=first_kind == Kind.SYN_ACK)
    rows["roles_known"] = history.started | (first_kind == Kind.SYN_ACK)
    rows["seen"] = rows["roles_known"] | (history.end < never)
    rows["answered"] = history.established < never
    start_known = history.started | history.one_way
    rows["start_ns"] = np.where(start_known, grouped.time_of(grouped.heads), UNKNOWN)
    rows["end_ns"] = grouped.time_of(history.end)
    rows["over_ns"] = grouped.time_of(history.over(never))
    for name, which, known in (
        ("synack_ns", history.answer, history.started),
        ("duration_ns", history.end, start_known),
        ("second_fin_ns", history.second_fin, history.started),
    ):
        rows[name] = np.where(known & (which < never), grouped.time_of(which) - rows["start_ns"], UNKNOWN)
    ended_by = np.where(np.append(grouped.by_client, False)[history.end], Side.CLIENT, Side.SERVER)
    rows["closed_first"] = np.where((history.end < never) & ~history.one_way, ended_by, Side.NOBODY)
    rows["only_from"] = np.where(history.one_way, ended_by, Side.NOBODY)
    relevant = _count(rows, grouped, history)
    silent = grouped.replaced | (now_ns - rows["last_syn_ns"] > syn_timeout_ns)
    rows["ended"] = np.select(
        [
            (history.second_fin < never) | (history.one_way & (history.stop == never)),
            history.refusal < history.reset,
            history.reset < never,
            (history.established == never) & silent,
            grouped.replaced,
        ],
        [Ended.FIN, Ended.REFUSED, Ended.RST, Ended.TIMEOUT, Ended.REPLACED],
        Ended.OPEN,
    )
    return Followed(rows, grouped, relevant)


def _history(grouped: Grouped) -> History:
    """Find the decisive segments of each connection. Other segments are strays and have no effect."""
    segments, kind, first = grouped.segments, grouped.kind, grouped.first
    connection, heads, never = grouped.connection, grouped.heads, grouped.never
    by_client, by_server = grouped.by_client, grouped.by_server
    seq, ack, index = segments["seq"], segments["ack"], np.arange(never)
    has_ack = segments["flags"] & ACK > 0
    started, answer_only = kind[heads] == Kind.SYN, kind[heads] == Kind.SYN_ACK

    # The server's SYN-ACK or RST acknowledges the SYN, with or without the data that the SYN carried (RFC 7413).
    isn = np.where(started, seq[heads], ack[heads] - _ONE)
    room = np.where(started, segments["payload_length"][heads], 0)
    acknowledges = has_ack & by_server & (ack - isn[connection] - _ONE <= room[connection])
    answers = (kind == Kind.SYN_ACK) & acknowledges
    answer = first(answers)

    server_isn = np.append(seq, np.uint32(0))[answer]
    # With SYN cookies each SYN-ACK has another sequence number, and the one that the client accepted is unknown.
    sole = (answer < never) & (first(answers & (seq != server_isn[connection])) == never)
    isn_known = np.where(by_client, (started | answer_only)[connection], sole[connection])
    # A sequence number wraps after 4 GiB, so it does not tell the end of a long connection from a stray of an earlier
    # one. The time does: the sender has to send all bytes up to the number after its SYN.
    sent = (seq - np.where(by_client, isn[connection], server_isn[connection]) - _ONE).astype(np.int64)
    since_ns = grouped.time_of(index) - grouped.time_of(np.where(by_client, heads[connection], answer[connection]))
    in_order = (sent <= since_ns * _FASTEST_BYTES_PER_NS + _FIRST_WINDOW) | ~isn_known

    fins = (kind == Kind.FIN) & in_order
    # The SYN-ACK may pass another interface. Then a segment of the client proves that its SYN was answered: its FIN, its
    # RST (without ACK only as the answer to the SYN-ACK, otherwise it may answer anything), and its own SYN-ACK if both
    # SYNs crossed.
    resets = kind == Kind.RST
    knows_server = fins | (resets & in_order & (has_ack | (sent <= room[connection])))
    crossing = first((kind == Kind.SYN) & by_server)
    takes_syn = (crossing < never)[connection] & (ack - np.append(seq, np.uint32(0))[crossing][connection] == _ONE)
    accepted = (knows_server | ((kind == Kind.SYN_ACK) & takes_syn)) & by_client
    established = np.where(started, np.minimum(answer, first(accepted)), heads)
    after = index >= established[connection]
    # In a connection whose SYN was not seen, a lone RST may answer any stray segment. It counts only after a FIN or
    # SYN-ACK, or if it has both an ACK and a sequence number.
    known_before = index > first(fins | (kind == Kind.SYN_ACK))[connection]
    sound = started[connection] | known_before | (has_ack & (seq > 0))
    # If there is no listener, a SYN and its retransmissions are answered with sequence number 0 (RFC 9293, 3.10.7.1).
    refusals = resets & started[connection] & acknowledges & (~after | (seq == 0))
    refusal, reset = first(refusals), first(resets & ~refusals & after & in_order & sound)

    fins = fins & after & (index < np.minimum(refusal, reset)[connection])
    end = np.minimum(first(fins), np.minimum(refusal, reset))
    one_way = started & np.append(by_client, False)[end] & (np.minimum(answer, crossing) > end)
    one_way |= answer_only & np.append(by_server & ~by_client, False)[end]
    counts = ~one_way[connection] | (index <= end[connection])  # what follows has no effect
    fins &= counts
    refusal, reset = (np.where(one_way & (stop > end), never, stop) for stop in (refusal, reset))
    client_fin, server_fin = first(fins & by_client), first(fins & by_server)
    return History(started, answer, established, fins, client_fin, server_fin, refusal, reset, one_way)


def _count(rows: Rows, grouped: Grouped, history: History) -> Mask:
    """Count retransmissions until the connection was over; return the mask of the relevant segments."""
    segments, connection, never = grouped.segments, grouped.connection, grouped.never
    syns = grouped.kind == Kind.SYN
    index = np.arange(never)
    relevant = syns | history.fins
    for one in (history.answer, history.established, history.stop):
        relevant |= index == one[connection]
    before_over = index <= history.over(never)[connection]
    copies = np.where(relevant & before_over & _same_way(grouped, relevant), segments["copies"], 0)

    def sent(mask: Mask) -> Integers:
        total = np.zeros(len(rows), np.int64)
        np.add.at(total, connection[mask], copies[mask])
        return total

    client_syns = syns & grouped.by_client
    rows["syn_retransmissions"] = np.maximum(sent(client_syns) - 1, 0)
    firsts = (index == history.client_fin[connection]) | (index == history.server_fin[connection])
    rows["fin_retransmissions"] = sent(history.fins) - np.bincount(connection[firsts], minlength=len(rows))
    rows["last_syn_ns"] = UNKNOWN
    np.maximum.at(rows["last_syn_ns"], connection[client_syns], segments["last_ns"][client_syns])
    return relevant


def _same_way(grouped: Grouped, relevant: Mask) -> Mask:
    """Mark the segments that passed the interface in the same direction as the first one of their kind.

    On loopback, and on an interface that forwards packets back out, each packet passes twice: at egress and at ingress.
    It is counted once.
    """
    ingress = grouped.segments["ingress"][relevant]
    _, first, number = np.unique(grouped.alike()[relevant], return_index=True, return_inverse=True)
    same = np.zeros(len(relevant), bool)
    same[relevant] = ingress == ingress[first][number]
    return same


def _name_ends(rows: Rows, heads: Events, *, by_server: Mask) -> None:
    """Fill in addresses, ports and interface from the first segments; `by_server` marks those that the server sent."""
    for source, destination in (("saddr", "daddr"), ("sport", "dport")):
        mask = by_server[:, None] if source == "saddr" else by_server
        rows[source] = np.where(mask, heads[destination], heads[source])
        rows[destination] = np.where(mask, heads[source], heads[destination])
    for name, *_ in _PLACE:
        rows[name] = heads[name]
