"""Text of packets: rows for `--json` and `--csv`, lines of the table, and the note about unreadable ports."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from lab.arrays import Events, Rows
from lab.clock import unix_ns
from lab.live import fields
from lab.packet import PROBLEMS, TCP, Problem, flags_text, protocol_text
from lab.tcp import endpoint

if TYPE_CHECKING:
    from lab.observation import Observed
    from lab.probes.packets.rows import Packet


def unreadable(totals: Events) -> str:
    """Return the note that counts the packets with unreadable ports, by reason; empty if there are none."""
    reasons = ", ".join(f"{row['frames']} {PROBLEMS[row['problem']]}" for row in np.sort(totals, order="problem"))
    return f"packets not shown because their ports cannot be read: {reasons} (--all shows them)" if reasons else ""


def as_dicts(rows: Rows) -> "Iterator[Packet]":
    """Yield rows under the names of `--json` and `--csv`; None marks a field that the packet does not have."""
    is_ip, has_ports = rows["version"] > 0, rows["problem"] == Problem.NONE
    is_tcp = has_ports & (rows["protocol"] == TCP)
    return fields.dictionaries(
        fields.heads("packets", rows["time_ns"])
        | {
            "ifindex": rows["ifindex"].tolist(),
            "source_address": fields.known(fields.addresses(rows["saddr"]), is_ip),
            "source_port": fields.known(rows["sport"], has_ports),
            "destination_address": fields.known(fields.addresses(rows["daddr"]), is_ip),
            "destination_port": fields.known(rows["dport"], has_ports),
            "ethertype": [f"0x{ethertype:04x}" for ethertype in rows["ethertype"].tolist()],
            "vlan": fields.not_zero(rows["vlan"]),
            "inner_vlan": fields.not_zero(rows["inner_vlan"]),
            "version": fields.not_zero(rows["version"]),
            "protocol": fields.known(list(map(protocol_text, rows["protocol"].tolist())), is_ip),
            "flags": fields.known(list(map(flags_text, rows["flags"].tolist())), is_tcp),
            "seq": fields.known(rows["seq"], is_tcp),
            "ack": fields.known(rows["ack"], is_tcp),
            "payload_length": fields.known(rows["payload_length"], has_ports),
            "frame_length": rows["frame_length"].tolist(),
            "fragment": rows["fragment"].astype(bool).tolist(),
            "problem": [PROBLEMS[problem] or None for problem in rows["problem"].tolist()],
        }
    )


_NARROW = 128
"""A terminal with fewer columns gets short lines."""


def line(row: "Packet", *, wall: bool = False, columns: int | None = None) -> str:
    """Return the line of a row (`as_dicts`) for a terminal with this number of columns.

    The time is since boot or, with `wall`, since 1970.
    """
    source, sport = row["source_address"] or "-", "-" if row["source_port"] is None else row["source_port"]
    target, dport = (
        row["destination_address"] or "-",
        "-" if row["destination_port"] is None else row["destination_port"],
    )
    time_ns = unix_ns(row["time_ns"]) if wall else row["time_ns"]
    why = f"  ({row['problem']})" if row["problem"] else ""
    if columns and columns < _NARROW:
        what = f"{row['flags'] or row['protocol'] or row['ethertype']} {row['payload_length'] or 0}{why}"
        return f"{time_ns // 1000:<16} {endpoint(source, sport)} -> {endpoint(target, dport)} {what}"
    return (
        f"Packet Data - src_ip: {source},  src_port: {sport}, dst_ip: {target},  dst_port: {dport}, "
        f"timestamp(us): {time_ns // 1000}{why}"
    )


def table(observed: "Observed") -> Iterator[str]:
    """Yield the lines that the live tool prints for this traffic, of both hosts."""
    return map(line, as_dicts(observed.recording.events["packets"]))
