"""How connections lived: from the segments that open and end them to a row for each. Pure functions over arrays.

What lives here: what each segment does to its connection. What does not: which connection it belongs to
(lab/probes/duration/grouping.py), and keeping the connections that are under way (lab/probes/duration/tracker.py).
"""

from dataclasses import dataclass

import numpy as np

from lab.arrays import UNKNOWN, Events, Index, Integers, Mask, Rows
from lab.packet import ACK
from lab.probes.duration.grouping import Grouped, Kind, counted, group
from lab.tcp import SYN_TIMEOUT_NS, Ended, Side

_HALF = np.uint32(1 << 31)  # sequence numbers are compared modulo 2^32 (RFC 9293, 3.4)
_ONE = np.uint32(1)

_ENDS = [("saddr", "u1", 16), ("daddr", "u1", 16), ("sport", "u2"), ("dport", "u2")]
_PLACE = [("ifindex", "u4"), ("vlan", "u2"), ("inner_vlan", "u2")]
_FACTS = [("seen", "u1"), ("roles_known", "u1"), ("answered", "u1"), ("ended", "u1"), ("closed_first", "u1")]
_COUNTS = [("syn_retransmissions", "i8"), ("fin_retransmissions", "i8")]
TIMES = ("start_ns", "last_syn_ns", "synack_ns", "end_ns", "over_ns", "duration_ns", "second_fin_ns")
_ROW = np.dtype([*_ENDS, *_PLACE, *_FACTS, *_COUNTS, *((name, "i8") for name in TIMES)])


@dataclass(frozen=True)
class Story:
    """What happened to each connection, as indices into its group's segments (`never`: did not happen).

    `fins` marks every FIN that counts, retransmissions included. `answer` is the first SYN-ACK; `established` the first sign
    that the SYN was accepted; `end` the first FIN or RST.
    """

    started: Mask
    answer: Index
    established: Index
    fins: Mask
    client_fin: Index
    server_fin: Index
    refusal: Index
    reset: Index

    @property
    def stop(self) -> Index:
        """The RST that refused or reset the connection."""
        return np.minimum(self.refusal, self.reset)

    @property
    def second_fin(self) -> Index:
        """The FIN of whoever closed last."""
        return np.maximum(self.client_fin, self.server_fin)

    def over(self, never: int) -> Index:
        """Return the segment after which nothing can come: the second FIN, or the RST."""
        return np.where(self.second_fin < never, self.second_fin, self.stop)

    @property
    def end(self) -> Index:
        """The first FIN or RST."""
        return np.minimum(np.minimum(self.client_fin, self.server_fin), self.stop)


@dataclass(frozen=True)
class Followed:
    """Connections and what they consist of.

    `rows` has one row for each connection, those that are not worth a report included (`seen` 0); `told` marks the segments
    without which the rows would say something else, retransmissions included.
    """

    rows: Rows
    grouped: Grouped
    told: Mask


def lifetimes(segments: Events, now_ns: int, syn_timeout_ns: int = SYN_TIMEOUT_NS) -> Rows:
    """Return one row for each connection, in order of the first segment that tells of it, as known at `now_ns`.

    `segments` are events of the probe `duration`, in any order. Times are nanoseconds on `CLOCK_MONOTONIC`, `UNKNOWN` (-1)
    where nobody can know. The rows' fields:

    - `saddr`, `sport`: the client, who sent the first SYN; `daddr`, `dport`: the server; when neither SYN nor SYN-ACK was seen
      (`roles_known` 0), the sender of the first segment seen and the other one.
    - `start_ns`: the first SYN; unknown for a connection that was open before. `last_syn_ns`: its last retransmission.
    - `synack_ns`: from the first SYN to the first SYN-ACK. `answered`: the server has accepted the SYN.
    - `duration_ns`: from the first SYN to the first FIN or RST, at `end_ns`, sent by `closed_first` (`Side`).
    - `second_fin_ns`: from the first SYN to the other side's FIN. `over_ns`: when that, or a RST, was seen.
    - `ended` (`Ended`), `syn_retransmissions` of the client, `fin_retransmissions` of both sides together, until it was over.
    """
    rows = follow(counted(segments), now_ns, syn_timeout_ns).rows
    rows = rows[rows["seen"] > 0]
    return rows[np.argsort(np.where(rows["start_ns"] == UNKNOWN, rows["end_ns"], rows["start_ns"]), kind="stable")]


def follow(segments: Events, now_ns: int, syn_timeout_ns: int) -> Followed:
    """Find the connections in `segments` (as from `counted`), and what can be said of them at `now_ns`."""
    grouped = group(segments, syn_timeout_ns)
    story = _story(grouped)
    never, first_kind = grouped.never, grouped.kind[grouped.heads]
    rows = np.zeros(len(grouped.heads), _ROW)
    _name_ends(rows, grouped.segments[grouped.heads], turned=first_kind == Kind.SYN_ACK)
    rows["roles_known"] = story.started | (first_kind == Kind.SYN_ACK)
    rows["seen"] = rows["roles_known"] | (story.end < never)
    rows["answered"] = story.established < never
    rows["start_ns"] = np.where(story.started, grouped.time_of(grouped.heads), UNKNOWN)
    rows["end_ns"] = grouped.time_of(story.end)
    rows["over_ns"] = grouped.time_of(story.over(never))
    for name, which in (("synack_ns", story.answer), ("duration_ns", story.end), ("second_fin_ns", story.second_fin)):
        known = story.started & (which < never)
        rows[name] = np.where(known, grouped.time_of(which) - rows["start_ns"], UNKNOWN)
    ended_by_client = np.append(grouped.by_client, False)[story.end]
    rows["closed_first"] = np.where(ended_by_client, Side.CLIENT, Side.SERVER)
    rows["closed_first"][story.end == never] = Side.NOBODY
    told = _count(rows, grouped, story)
    silent = grouped.replaced | (now_ns - rows["last_syn_ns"] > syn_timeout_ns)
    rows["ended"] = np.select(
        [
            story.second_fin < never,
            story.refusal < story.reset,
            story.reset < never,
            (story.established == never) & silent,
            grouped.replaced,
        ],
        [Ended.FIN, Ended.REFUSED, Ended.RST, Ended.TIMEOUT, Ended.REPLACED],
        Ended.OPEN,
    )
    return Followed(rows, grouped, told)


def _story(grouped: Grouped) -> Story:
    """Find the segments that mean something to their connections; the others are strays and change nothing."""
    segments, kind, by_client, first = grouped.segments, grouped.kind, grouped.by_client, grouped.first
    connection, heads, never = grouped.connection, grouped.heads, grouped.never
    seq, ack, index = segments["seq"], segments["ack"], np.arange(never)
    has_ack = segments["flags"] & ACK > 0
    started, answer_only = kind[heads] == Kind.SYN, kind[heads] == Kind.SYN_ACK

    # What the server's SYN-ACK or RST acknowledges: the SYN, with all or nothing of the data it carried (RFC 7413).
    isn = np.where(started, seq[heads], ack[heads] - _ONE)
    room = np.where(started, segments["payload_length"][heads], 0)
    acknowledges = has_ack & ~by_client & (ack - isn[connection] - _ONE <= room[connection])
    answers = (kind == Kind.SYN_ACK) & acknowledges
    answer = first(answers)

    server_isn = np.append(seq, np.uint32(0))[answer]
    # With SYN cookies each SYN-ACK has another number, and which of them the client has taken is not seen here.
    sole = (answer < never) & (first(answers & (seq != server_isn[connection])) == never)
    isn_known = np.where(by_client, (started | answer_only)[connection], sole[connection])
    in_order = seq - np.where(by_client, isn[connection], server_isn[connection]) - _ONE < _HALF
    in_order |= ~isn_known

    fins = (kind == Kind.FIN) & in_order
    # The client's FIN tells as well that the SYN was answered, on an interface that the answer does not pass; and so does its own
    # SYN-ACK, where the SYNs of both have crossed.
    crossing = first((kind == Kind.SYN) & ~by_client)
    takes_syn = (crossing < never)[connection] & (ack - np.append(seq, np.uint32(0))[crossing][connection] == _ONE)
    accepted = (fins | ((kind == Kind.SYN_ACK) & takes_syn)) & by_client
    established = np.where(started, np.minimum(answer, first(accepted)), heads)
    after = index >= established[connection]
    # A RST without anything else may be the answer to any stray segment, unless its sender knows what it has received.
    known_before = index > first(fins | (kind == Kind.SYN_ACK))[connection]
    sound = started[connection] | known_before | (has_ack & (seq > 0))
    resets = kind == Kind.RST
    # Where nobody listens, a SYN and its retransmission are answered by sequence number 0 (RFC 9293, 3.10.7.1).
    refusals = resets & started[connection] & acknowledges & (~after | (seq == 0))
    refusal, reset = first(refusals), first(resets & ~refusals & after & in_order & sound)

    fins = fins & after & (index < np.minimum(refusal, reset)[connection])
    client_fin, server_fin = first(fins & by_client), first(fins & ~by_client)
    return Story(started, answer, established, fins, client_fin, server_fin, refusal, reset)


def _count(rows: Rows, grouped: Grouped, story: Story) -> Mask:
    """Count retransmissions until the connection was over; returns which segments the rows tell of."""
    segments, connection, never = grouped.segments, grouped.connection, grouped.never
    syns = grouped.kind == Kind.SYN
    index = np.arange(never)
    told = syns | story.fins
    for one in (story.answer, story.established, story.stop):
        told |= index == one[connection]
    before_over = index <= story.over(never)[connection]
    copies = np.where(told & before_over & _same_way(grouped, told), segments["copies"], 0)

    def sent(mask: Mask) -> Integers:
        total = np.zeros(len(rows), np.int64)
        np.add.at(total, connection[mask], copies[mask])
        return total

    client_syns = syns & grouped.by_client
    rows["syn_retransmissions"] = np.maximum(sent(client_syns) - 1, 0)
    sides = (story.client_fin < never).astype(np.int64) + (story.server_fin < never)
    rows["fin_retransmissions"] = sent(story.fins) - sides
    rows["last_syn_ns"] = UNKNOWN
    np.maximum.at(rows["last_syn_ns"], connection[client_syns], segments["last_ns"][client_syns])
    return told


def _same_way(grouped: Grouped, told: Mask) -> Mask:
    """Tell which segments passed the interface in the direction in which the first of their kind did.

    On loopback each packet passes on its way out and on its way in, and so it does where packets leave by the interface that
    they came from: once is enough.
    """
    ingress = grouped.segments["ingress"][told]
    _, first, number = np.unique(grouped.alike()[told], return_index=True, return_inverse=True)
    same = np.zeros(len(told), bool)
    same[told] = ingress == ingress[first][number]
    return same


def _name_ends(rows: Rows, heads: Events, *, turned: Mask) -> None:
    """Fill in who talks to whom: the sender of the first segment to the other one, `turned` where that is the server's."""
    for mine, other in (("saddr", "daddr"), ("sport", "dport")):
        mask = turned[:, None] if mine == "saddr" else turned
        rows[mine] = np.where(mask, heads[other], heads[mine])
        rows[other] = np.where(mask, heads[mine], heads[other])
    for name, *_ in _PLACE:
        rows[name] = heads[name]
