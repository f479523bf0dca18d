"""Traffic reports from the kernel's sums by flow, as pure functions over arrays.

What lives here: adding up intervals by endpoint pair or by connection, and the names of protocols. What does not:
counting (`bpf/flows.c`) and printing (`lab.probes.flows.text`).
"""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from lab.arrays import Mask, Rows
from lab.packet import PROTOCOLS, Problem


class Direction(IntEnum):
    """`enum direction` in bpf/flows.c."""

    INGRESS = 0
    EGRESS = 1


LOOPBACK = 1
"""Ifindex of the loopback in every network namespace."""

NEVER_NS = np.iinfo(np.uint64).max
"""`first_ns` of a direction without packets."""

PLACE = ("ifindex", "vlan", "inner_vlan", "direction")
PAIR = (*PLACE, "ethertype", "version", "protocol", "problem", "saddr", "daddr")
CONNECTION = (*PAIR, "sport", "dport")
MACS = ("smac", "dmac")

_COUNTS = ("packets", "bytes", "payload_bytes", "syns", "fins", "rsts")
_SUMS = (*_COUNTS, "first_ns", "last_ns")
_SIDES = (("saddr", "daddr"), ("sport", "dport"), ("smac", "dmac"))
_UNREADABLE = (Problem.TRUNCATED, Problem.MALFORMED, Problem.TOO_MANY_HEADERS)
_IPV4, _IPV6 = 0x0800, 0x86DD

# Common ethertypes of IANA's registry.
_ETHERTYPES = {
    0: "LLC",
    0x0806: "ARP",
    0x0842: "WoL",
    0x8035: "RARP",
    0x8100: "VLAN",
    0x8137: "IPX",
    0x8808: "Pause",
    0x8809: "LACP",
    0x8847: "MPLS",
    0x8848: "MPLS",
    0x8863: "PPPoE",
    0x8864: "PPPoE",
    0x888E: "EAPOL",
    0x88A8: "VLAN",
    0x88CC: "LLDP",
    0x88E5: "MACsec",
    0x88F7: "PTP",
}


def protocol_name(ethertype: int, protocol: int, problem: int) -> str:
    """Return the protocol's name in a report: `TCP`, `IP-253`, `ARP`, `0x88b5`; `other (truncated)` if unreadable."""
    if problem in _UNREADABLE:
        return f"other ({Problem(problem).name.lower().replace('_', ' ')})"
    if ethertype in {_IPV4, _IPV6}:
        return PROTOCOLS.get(protocol, f"IP-{protocol}")
    return _ETHERTYPES.get(ethertype, f"0x{ethertype:04x}")


def pairs(totals: Rows, *, macs: bool = False) -> Rows:
    """Return one row for each endpoint pair and direction: the columns of `PAIR` (and `MACS`) and the sums.

    Fragments and packets without ports belong to the pair of their addresses. The endpoints of packets that are not IP
    are their MAC addresses, in the last six bytes of `saddr` and `daddr`.
    """
    rows = _with_endpoints(totals)
    # These rows have no ports, so the reason for missing ports must not split them.
    rows["problem"][~np.isin(rows["problem"], _UNREADABLE)] = Problem.NONE
    return merged(rows, PAIR + MACS * macs)


def connections(totals: Rows, *, macs: bool = False) -> Rows:
    """Return one row for each connection: the columns of `CONNECTION` (and `MACS`) and the sums of each direction.

    The sums of packets from destination to source are the columns `reply_…`. The lower endpoint is the source, so that
    rows of several intervals can be `merged`; `from_first_sender` then chooses the source by time. `direction` is that
    of packets from the source.
    """
    rows = _with_endpoints(totals)
    joined = np.zeros(len(rows), _dtype(rows, CONNECTION + MACS * macs, ("", "reply_")))
    for name in joined.dtype.names or ():
        joined[name] = rows[name] if name in (rows.dtype.names or ()) else 0
    joined["reply_first_ns"] = NEVER_NS
    return merged(_swapped(joined, _above(rows)), CONNECTION + MACS * macs)


def from_first_sender(joined: Rows) -> Rows:
    """Return the connections with the sender of the first packet as the source."""
    return _swapped(joined, joined["reply_first_ns"] < joined["first_ns"])


def merged(rows: Rows, key: Sequence[str]) -> Rows:
    """Return a row for each value of the `key` columns: sums of the counts, earliest first time and latest last time.

    The result has the columns of `key` and the sums, sorted by the bytes of the key. All arithmetic is in integers.
    """
    prefixes = _prefixes(rows)
    kind = _dtype(rows, key, prefixes)
    if not len(rows):
        return np.zeros(0, kind)
    keys = np.concatenate([np.ascontiguousarray(rows[name]).view("u1").reshape(len(rows), -1) for name in key], axis=1)
    keys = np.ascontiguousarray(keys).view(f"V{keys.shape[1]}")[:, 0]
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.append(True, keys[order][1:] != keys[order][:-1]))
    result = np.zeros(len(starts), kind)
    for name in key:
        result[name] = rows[name][order[starts]]
    for prefix in prefixes:
        for name in _COUNTS:
            result[prefix + name] = np.add.reduceat(rows[prefix + name][order], starts)
        result[f"{prefix}first_ns"] = np.minimum.reduceat(rows[f"{prefix}first_ns"][order], starts)
        result[f"{prefix}last_ns"] = np.maximum.reduceat(rows[f"{prefix}last_ns"][order], starts)
    return result


def last_seen_ns(rows: Rows) -> npt.NDArray[np.uint64]:
    """Time of the last packet of each row, in either direction."""
    return np.maximum(rows["last_ns"], rows["reply_last_ns"]) if _has_replies(rows) else rows["last_ns"]


def packets(rows: Rows) -> npt.NDArray[np.uint64]:
    """Packets of each row, in both directions."""
    return rows["packets"] + rows["reply_packets"] if _has_replies(rows) else rows["packets"]


def largest_first(rows: Rows) -> Rows:
    """Return the rows sorted by packets, then by bytes, both descending, then by the time of the first packet."""
    size = rows["bytes"] + rows["reply_bytes"] if _has_replies(rows) else rows["bytes"]
    return rows.take(np.lexsort((rows["first_ns"], ~size, ~packets(rows))))


class Accumulated:
    """Rows since the start, at most `most`; the rows idle for longest are removed and summed up in `older`.

    `older` has the numbers of rows, packets and bytes that were removed.
    """

    def __init__(self, key: Sequence[str], most: int) -> None:
        self._key, self._most = key, most
        self.rows: Rows | None = None
        self.older = {"rows": 0, "packets": 0, "bytes": 0}

    def add(self, rows: Rows) -> Rows:
        """Add the rows of an interval and return the rows since the start."""
        rows = rows if self.rows is None else merged(np.concatenate([self.rows, rows]), self._key)
        if len(rows) > self._most:
            idle_first = np.argsort(last_seen_ns(rows), kind="stable")
            gone, rows = rows[idle_first[: -self._most]], rows[idle_first[-self._most :]]
            self.older["rows"] += len(gone)
            for name in ("packets", "bytes"):
                self.older[name] += sum(int(gone[prefix + name].sum()) for prefix in _prefixes(rows))
        self.rows = rows
        return rows


def _has_replies(rows: Rows) -> bool:
    return "reply_packets" in (rows.dtype.names or ())


def _prefixes(rows: Rows) -> tuple[str, ...]:
    """Prefixes of the sums' columns, one for each direction that the rows have."""
    return ("", "reply_") if _has_replies(rows) else ("",)


def _dtype(rows: Rows, key: Sequence[str], prefixes: Sequence[str]) -> np.dtype[np.void]:
    columns = [(name, rows.dtype[name].base, rows.dtype[name].shape) for name in key]
    return np.dtype([*columns, *((prefix + name, np.dtype("u8"), ()) for prefix in prefixes for name in _SUMS)])


def _with_endpoints(totals: Rows) -> Rows:
    """Return a copy of the rows where packets without IP addresses have MAC addresses as endpoints."""
    rows = totals.copy()
    not_ip = rows["version"] == 0
    for address, mac in (("saddr", "smac"), ("daddr", "dmac")):
        rows[address][not_ip] = 0
        rows[address][not_ip, 10:] = rows[mac][not_ip]
    return rows


def _above(rows: Rows) -> Mask:
    """Return the rows whose source is the higher endpoint, by address and then by port."""
    source, destination = (
        [*np.ascontiguousarray(rows[address]).view(">u8").T, rows[port]]
        for address, port in (("saddr", "sport"), ("daddr", "dport"))
    )
    above = np.zeros(len(rows), bool)
    for high, low in zip(reversed(source), reversed(destination), strict=True):
        above = (high > low) | ((high == low) & above)
    return above


def _swapped(joined: Rows, where: Mask) -> Rows:
    """Return the connections with source and destination exchanged `where` the mask is set."""
    result = joined.copy()
    names = joined.dtype.names or ()
    exchanged = [ends for ends in _SIDES if ends[0] in names] + [(name, f"reply_{name}") for name in _SUMS]
    for one, other in exchanged:
        result[one][where], result[other][where] = joined[other][where], joined[one][where]
    # Replies pass in the other direction. On the loopback packets are counted at egress only.
    flipped = where & (joined["ifindex"] != LOOPBACK)
    result["direction"][flipped] = Direction.EGRESS - joined["direction"][flipped]
    return result
