"""Text of packets: rows for `--json` and `--csv`, lines of the table, and the note about unreadable ports."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from lab.arrays import Events, Row
from lab.clock import unix_ns
from lab.live import fields
from lab.packet import PROBLEMS, TCP, flags_text, protocol_text
from lab.tcp import address_text, endpoint

if TYPE_CHECKING:
    from lab.observation import Observed
    from lab.probes.packets.rows import Packet

_NO_IP = 0


def unreadable(totals: Events) -> str:
    """Return the note that counts the packets with unreadable ports, by reason; empty if there are none."""
    reasons = ", ".join(f"{row['frames']} {PROBLEMS[row['problem']]}" for row in np.sort(totals, order="problem"))
    return f"packets not shown because their ports cannot be read: {reasons} (--all shows them)" if reasons else ""


def as_dict(row: Row) -> "Packet":
    """Return a row under the names of `--json` and `--csv`; None marks a field that the packet does not have."""
    version, protocol, problem = int(row["version"]), int(row["protocol"]), int(row["problem"])
    is_ip, has_ports = version != _NO_IP, problem == 0
    is_tcp = has_ports and protocol == TCP
    return {
        **fields.head("packets", int(row["time_ns"])),
        "ifindex": int(row["ifindex"]),
        "source_address": address_text(bytes(row["saddr"])) if is_ip else None,
        "source_port": int(row["sport"]) if has_ports else None,
        "destination_address": address_text(bytes(row["daddr"])) if is_ip else None,
        "destination_port": int(row["dport"]) if has_ports else None,
        "ethertype": f"0x{int(row['ethertype']):04x}",
        "vlan": int(row["vlan"]) or None,
        "inner_vlan": int(row["inner_vlan"]) or None,
        "version": version or None,
        "protocol": protocol_text(protocol) if is_ip else None,
        "flags": flags_text(int(row["flags"])) if is_tcp else None,
        "seq": int(row["seq"]) if is_tcp else None,
        "ack": int(row["ack"]) if is_tcp else None,
        "payload_length": int(row["payload_length"]) if has_ports else None,
        "frame_length": int(row["frame_length"]),
        "fragment": bool(row["fragment"]),
        "problem": PROBLEMS[problem] or None,
    }


_NARROW = 128
"""A terminal with fewer columns gets short lines."""


def line(row: "Packet", *, wall: bool = False, columns: int | None = None) -> str:
    """Return the line of a row (`as_dict`) for a terminal with this number of columns.

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
    return (line(as_dict(row)) for row in observed.recording.events["packets"])
