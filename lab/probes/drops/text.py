"""Freed packets as text: a line each, and the dictionary that `--json` and `--csv` print."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lab.clock import time_of_day
from lab.linux.process import Owner
from lab.live import fields
from lab.packet import flags_text
from lab.tcp import address_text, endpoint

if TYPE_CHECKING:
    from lab.observation import Observed
    from lab.probes.drops.rows import Drop


_NARROW = 110
"""A terminal with fewer columns gets lines without the bytes, and with the process at the end."""


def header(columns: int | None = None) -> str:
    """Return the header line of the table for a terminal with this number of columns."""
    if columns and columns < _NARROW:
        return f"{'TIME':<8} {'REASON':<17} {'FLAGS':<7} SOURCE -> DESTINATION C-PID C-COMM"
    return f"{'TIME':<8} {'REASON':<19} {'FLAGS':<7} {'BYTES':>5} {'C-PID':<7} {'C-COMM':<10} SOURCE -> DESTINATION"


def as_dict(row: Any, owner: Owner | None) -> "Drop":
    """Return one row under the names that `--json` and `--csv` use; None means unknown."""
    from lab.probes.drops.reasons import reason_of, reason_text  # noqa: PLC0415 (reads the kernel's types)

    return {
        **fields.head("drops", int(row["time_ns"])),
        "netns": int(row["netns"]),
        "reason": reason_of(row),
        "kernel_reason": reason_text(int(row["reason"])),
        "source_address": address_text(bytes(row["saddr"])),
        "source_port": int(row["sport"]),
        "destination_address": address_text(bytes(row["daddr"])),
        "destination_port": int(row["dport"]),
        "flags": flags_text(int(row["flags"])),
        "seq": int(row["seq"]),
        "bytes": int(row["size"]),
        "pid": owner.pid if owner else None,
        "comm": owner.comm if owner else None,
    }


def line(row: "Drop", columns: int | None = None) -> str:
    """Return one line of the table for a terminal with this number of columns."""
    source = endpoint(row["source_address"], row["source_port"])
    destination = endpoint(row["destination_address"], row["destination_port"])
    pid, comm = (row[name] or "-" for name in ("pid", "comm"))
    if columns and columns < _NARROW:
        when = time_of_day(row["time_ns"])[:8]
        return f"{when} {row['reason']:<17} {row['flags']:<7} {source} -> {destination} {pid} {comm}"
    return (
        f"{time_of_day(row['time_ns'])[:8]} {row['reason']:<19} {row['flags']:<7} {row['bytes']:>5} {pid:<7} "
        f"{comm:<10.10} {source} -> {destination}"
    )


def table(observed: "Observed") -> Iterator[str]:
    """Yield the lines that the live tool would have printed for both hosts, with `--all`."""
    from lab.probes.drops.measure import with_size  # noqa: PLC0415 (NumPy)

    yield header()
    for row in with_size(observed.recording.events["drops"]):
        yield line(as_dict(row, None))
