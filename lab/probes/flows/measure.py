"""From sums by flow to a traffic report: who talks to whom, in packets and bytes. Pure functions over arrays.

What lives here: joining what each interval has added, by endpoint pair or by connection, and the names of protocols. What
does not: where the sums come from (`bpf/flows.c`), and how they are printed.
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
"""The loopback's ifindex in every network namespace."""

NEVER_NS = np.iinfo(np.uint64).max
"""As `first_ns` of a direction in which nothing has come."""

PLACE = ("ifindex", "vlan", "inner_vlan", "direction")
PAIR = (*PLACE, "ethertype", "version", "protocol", "problem", "saddr", "daddr")
CONNECTION = (*PAIR, "sport", "dport")
MACS = ("smac", "dmac")

_COUNTS = ("packets", "bytes", "payload_bytes", "syns", "fins", "rsts")
_SUMS = (*_COUNTS, "first_ns", "last_ns")
_SIDES = (("saddr", "daddr"), ("sport", "dport"), ("smac", "dmac"))
_UNREADABLE = (Problem.TRUNCATED, Problem.MALFORMED, Problem.TOO_MANY_HEADERS)
_IPV4, _IPV6 = 0x0800, 0x86DD

# IANA's registry of ethertypes: what is met often.
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
    """Return what a report calls the protocol: `TCP`, `IP-253`, `ARP`, `0x88b5`; `other (truncated)` for what cannot be read."""
    if problem in _UNREADABLE:
        return f"other ({Problem(problem).name.lower().replace('_', ' ')})"
    if ethertype in {_IPV4, _IPV6}:
        return PROTOCOLS.get(protocol, f"IP-{protocol}")
    return _ETHERTYPES.get(ethertype, f"0x{ethertype:04x}")


def pairs(totals: Rows, *, macs: bool = False) -> Rows:
    """Add up by endpoint pair, each direction in a row of its own: the columns of `PAIR` (and `MACS`) and the sums.

    Fragments and packets without ports belong to their addresses' pair. What is not IP has its MAC addresses as endpoints, in the
    last six bytes of `saddr` and `daddr`.
    """
    rows = _with_endpoints(totals)
    # Why a packet has no ports does not matter where no ports are told.
    rows["problem"][~np.isin(rows["problem"], _UNREADABLE)] = Problem.NONE
    return merged(rows, PAIR + MACS * macs)


def connections(totals: Rows, *, macs: bool = False) -> Rows:
    """Add up by connection: the columns of `CONNECTION` (and `MACS`), the sums to the destination, and those back as `reply_…`.

    Which end is the source is arbitrary, so that the results of several intervals can be `merged`; `from_first_sender` puts it right.
    `direction` is that of source to destination.
    """
    rows = _with_endpoints(totals)
    joined = np.zeros(len(rows), _dtype(rows, CONNECTION + MACS * macs, ("", "reply_")))
    for name in joined.dtype.names or ():
        joined[name] = rows[name] if name in (rows.dtype.names or ()) else 0
    joined["reply_first_ns"] = NEVER_NS
    return merged(_swapped(joined, _above(rows)), CONNECTION + MACS * macs)


def from_first_sender(joined: Rows) -> Rows:
    """Make the end whose packet came first the source of each connection."""
    return _swapped(joined, joined["reply_first_ns"] < joined["first_ns"])


def merged(rows: Rows, key: Sequence[str]) -> Rows:
    """Add up rows with equal `key` columns: counts summed, the first and the last time kept. Exact, in integers.

    The result has the columns of `key` and the sums, in the order of the key's bytes.
    """
    ways = ("", "reply_") if "reply_packets" in (rows.dtype.names or ()) else ("",)
    kind = _dtype(rows, key, ways)
    if not len(rows):
        return np.zeros(0, kind)
    keys = np.concatenate([np.ascontiguousarray(rows[name]).view("u1").reshape(len(rows), -1) for name in key], axis=1)
    keys = np.ascontiguousarray(keys).view(f"V{keys.shape[1]}")[:, 0]
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.append(True, keys[order][1:] != keys[order][:-1]))
    result = np.zeros(len(starts), kind)
    for name in key:
        result[name] = rows[name][order[starts]]
    for way in ways:
        for name in _COUNTS:
            result[way + name] = np.add.reduceat(rows[way + name][order], starts)
        result[f"{way}first_ns"] = np.minimum.reduceat(rows[f"{way}first_ns"][order], starts)
        result[f"{way}last_ns"] = np.maximum.reduceat(rows[f"{way}last_ns"][order], starts)
    return result


def last_seen_ns(rows: Rows) -> npt.NDArray[np.uint64]:
    """When the last packet of each row passed, in whichever direction."""
    return np.maximum(rows["last_ns"], rows["reply_last_ns"]) if _has_replies(rows) else rows["last_ns"]


def packets(rows: Rows) -> npt.NDArray[np.uint64]:
    """Packets of each row, in both directions."""
    return rows["packets"] + rows["reply_packets"] if _has_replies(rows) else rows["packets"]


def largest_first(rows: Rows) -> Rows:
    """Sort by packets, most first; then by bytes, and then by the time of the first packet."""
    size = rows["bytes"] + rows["reply_bytes"] if _has_replies(rows) else rows["bytes"]
    return rows[np.lexsort((rows["first_ns"], ~size, ~packets(rows)))]


class Accumulated:
    """Rows since the start, no more than `most` of them: beyond that the longest idle ones are summed up in `older`.

    `older` counts rows, packets and bytes that have been summed up so far.
    """

    def __init__(self, key: Sequence[str], most: int) -> None:
        self._key, self._most = key, most
        self.rows: Rows | None = None
        self.older = {"rows": 0, "packets": 0, "bytes": 0}

    def add(self, rows: Rows) -> Rows:
        """Add the rows of an interval; returns all there are."""
        rows = rows if self.rows is None else merged(np.concatenate([self.rows, rows]), self._key)
        if len(rows) > self._most:
            idle_first = np.argsort(last_seen_ns(rows), kind="stable")
            gone, rows = rows[idle_first[: -self._most]], rows[idle_first[-self._most :]]
            ways = ("", "reply_") if _has_replies(rows) else ("",)
            self.older["rows"] += len(gone)
            for name in ("packets", "bytes"):
                self.older[name] += sum(int(gone[way + name].sum()) for way in ways)
        self.rows = rows
        return rows


def _has_replies(rows: Rows) -> bool:
    return "reply_packets" in (rows.dtype.names or ())


def _dtype(rows: Rows, key: Sequence[str], ways: Sequence[str]) -> np.dtype[np.void]:
    columns = [(name, rows.dtype[name].base, rows.dtype[name].shape) for name in key]
    return np.dtype([*columns, *((way + name, np.dtype("u8"), ()) for way in ways for name in _SUMS)])


def _with_endpoints(totals: Rows) -> Rows:
    """Copy the rows, with MAC addresses as the endpoints of what has no IP addresses."""
    rows = totals.copy()
    nowhere = rows["version"] == 0
    for address, mac in (("saddr", "smac"), ("daddr", "dmac")):
        rows[address][nowhere] = 0
        rows[address][nowhere, 10:] = rows[mac][nowhere]
    return rows


def _above(rows: Rows) -> Mask:
    """Tell where the source is the higher endpoint, by address and then by port."""
    source, destination = (
        [*np.ascontiguousarray(rows[address]).view(">u8").T, rows[port]]
        for address, port in (("saddr", "sport"), ("daddr", "dport"))
    )
    above = np.zeros(len(rows), bool)
    for high, low in zip(reversed(source), reversed(destination), strict=True):
        above = (high > low) | ((high == low) & above)
    return above


def _swapped(joined: Rows, where: Mask) -> Rows:
    """Exchange both ends of some connections."""
    result = joined.copy()
    names = joined.dtype.names or ()
    exchanged = [ends for ends in _SIDES if ends[0] in names] + [(name, f"reply_{name}") for name in _SUMS]
    for one, other in exchanged:
        result[one][where], result[other][where] = joined[other][where], joined[one][where]
    # What goes out is answered by what comes in, but for the loopback, where all that is counted goes out.
    turned = where & (joined["ifindex"] != LOOPBACK)
    result["direction"][turned] = Direction.EGRESS - joined["direction"][turned]
    return result
