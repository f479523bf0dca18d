"""Text of a traffic report: rows for `--json` and `--csv`, and lines of the table."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lab.clock import time_of_day
from lab.live import fields
from lab.output.terminal import cut
from lab.packet import Problem
from lab.probes.flows.measure import NEVER_NS, Direction, largest_first, pairs, protocol_name
from lab.tcp import address_text, endpoint
from lab.units import SECOND, bytes_text

if TYPE_CHECKING:
    from lab.observation import Observed

Record = dict[str, object]

OLDER = "older"
"""Protocol of the row that sums up removed rows (`measure.Accumulated`)."""

_SUMS = ("packets", "bytes", "payload_bytes", "syns", "fins", "rsts")
_NUMBERS = ("DURATION", "PACKETS", "BYTES", "REPLIES", "REPLY BYTES")
_LEFT_OUT_FIRST = ("START", "INTERFACE", "PROTOCOL", "REPLIES", "PACKETS", "DIRECTION", "DURATION")
_LEAST_WIDTHS = {"PROTOCOL": 8, "SOURCE": 15, "DESTINATION": 15, "PACKETS": 9, "BYTES": 9}


def as_dict(
    row: np.void, interfaces: Mapping[int, str], time_ns: int = 0, *, ethernet: bool = True, drops: int | None = None
) -> Record:
    """Return a row of `measure.pairs` or `.connections` as in `rows.py`; None is unknown. `time_ns` is that of the report.

    `interfaces` gives names by ifindex, `drops` are those of the queueing discipline. Without `ethernet` the interface's
    packets have no MAC addresses.
    """
    names = row.dtype.names or ()
    version = int(row["version"])
    record: Record = {
        **fields.head("flows.connections" if "sport" in names else "flows", time_ns),
        "protocol": protocol_name(int(row["ethertype"]), int(row["protocol"]), int(row["problem"])),
        "ethertype": int(row["ethertype"]) or None,
        "ip_protocol": int(row["protocol"]) if version else None,
        "source_address": address(row["saddr"], version) if version or ethernet else None,
        "destination_address": address(row["daddr"], version) if version or ethernet else None,
        "interface": interfaces.get(int(row["ifindex"]), str(row["ifindex"])),
        "direction": Direction(row["direction"]).name.lower(),
        "vlan": int(row["vlan"]) or None,
        "inner_vlan": int(row["inner_vlan"]) or None,
    }
    if "smac" in names:
        record |= {
            "source_mac": _mac(row["smac"]) if ethernet else None,
            "destination_mac": _mac(row["dmac"]) if ethernet else None,
        }
    if "sport" in names:
        known = row["problem"] == Problem.NONE
        record |= {
            "source_port": int(row["sport"]) if known else None,
            "destination_port": int(row["dport"]) if known else None,
            "problem": None if known else Problem(row["problem"]).name.lower(),
        }
    record |= {name: int(row[name]) for name in _SUMS}
    first_ns, last_ns = int(row["first_ns"]), int(row["last_ns"])
    if "reply_packets" in names:
        record |= {f"reply_{name}": int(row[f"reply_{name}"]) for name in _SUMS}
        replied_ns = int(row["reply_first_ns"])
        first_ns, last_ns = min(first_ns, replied_ns), max(last_ns, int(row["reply_last_ns"]))
        record["reply_first_ns"] = None if replied_ns == NEVER_NS else replied_ns
    return record | {"first_ns": first_ns, "last_ns": last_ns, "qdisc_drops": drops}


def older(sums: Mapping[str, int], time_ns: int = 0) -> Record:
    """Return the row of the `sums` over removed rows."""
    head = fields.head("flows.older", time_ns)
    return {**head, "protocol": OLDER, "packets": sums["packets"], "bytes": sums["bytes"]}


def lines(
    rows: Sequence[Record], *, connections: bool = False, macs: bool = False, width: int | None = None
) -> Iterator[str]:
    """Yield the lines of a table, the head first. A column is as wide as its widest cell.

    If they are wider than `width`, the less important columns are left out.
    """
    cells = [_cells(row, connections=connections, macs=macs) for row in rows]
    columns = list(_cells({}, connections=connections, macs=macs))
    widths = {name: max(_LEAST_WIDTHS.get(name, 0), len(name), *(len(it[name]) for it in cells), 0) for name in columns}
    for name in _LEFT_OUT_FIRST:
        if width is not None and name in columns and sum(widths[it] + 1 for it in columns) - 1 > width:
            columns.remove(name)
    for line in ({name: name for name in columns}, *cells):
        aligned = (f"{line[name]:{'>' if name in _NUMBERS else '<'}{widths[name]}}" for name in columns)
        yield cut(" ".join(aligned).rstrip(), width)


def address(packed: np.ndarray, version: int) -> str:
    """Return an endpoint's IP address, or for version 0 the MAC address in its last six bytes."""
    return address_text(packed.tobytes()) if version else _mac(packed[10:])


def _mac(packed: np.ndarray) -> str:
    return packed.tobytes().hex(":")


def _cells(row: Record, *, connections: bool, macs: bool) -> dict[str, str]:
    """Return the cells of a line by column."""
    place = [row.get(name) for name in ("interface", "vlan", "inner_vlan")]
    ends = ("source", "destination")
    cells = {"PROTOCOL": _text(row.get("protocol"))}
    for name, port in zip(ends, ("source_port", "destination_port"), strict=True):
        address_name = f"{name}_address"
        cells[name.upper()] = _endpoint(row, address_name, port) if connections else _text(row.get(address_name))
    if connections:
        cells |= {"START": _time_of_day(row.get("first_ns")), "DURATION": _duration(row)}
    cells |= {"PACKETS": _text(row.get("packets")), "BYTES": _bytes(row.get("bytes"))}
    if connections:
        cells |= {"REPLIES": _text(row.get("reply_packets")), "REPLY BYTES": _bytes(row.get("reply_bytes"))}
    cells |= {
        "INTERFACE": ".".join(str(part) for part in place if part) or "-",
        "DIRECTION": _text(row.get("direction")),
    }
    if macs:
        cells |= {f"{name.upper()} MAC": _text(row.get(f"{name}_mac")) for name in ends}
    return cells


def _text(value: object) -> str:
    return "-" if value is None else str(value)


def _bytes(value: object) -> str:
    return bytes_text(value) if isinstance(value, int) else "-"


def _endpoint(row: Record, name: str, port: str) -> str:
    text = _text(row.get(name))
    if row.get("ip_protocol") is None:
        return text
    return endpoint(text, _text(row.get(port)))


def _time_of_day(time_ns: object) -> str:
    return time_of_day(time_ns)[:12] if isinstance(time_ns, int) else "-"


def _duration(row: Record) -> str:
    first_ns, last_ns = row.get("first_ns"), row.get("last_ns")
    if not isinstance(first_ns, int) or not isinstance(last_ns, int):
        return "-"
    return f"{(last_ns - first_ns) / SECOND:.3f}"


def table(observed: "Observed") -> Iterator[str]:
    """Yield the lines that the live tool prints for this traffic, of both hosts."""
    devices = observed.recording.devices
    names = {index: name for index, (name, _) in devices.items()}
    totals = observed.recording.totals["flows"]
    by_host = (largest_first(pairs(totals[totals["ifindex"] == index])) for index in devices)
    yield from lines([as_dict(row, names) for rows in by_host for row in rows])
