"""Freed packets as text: a line each, and the dictionary that `--json` and `--csv` print."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from lab.arrays import Rows
from lab.clock import time_of_day
from lab.linux.process import Owner
from lab.live import fields
from lab.packet import flags_text
from lab.tcp import endpoint

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


def as_dicts(rows: Rows, owner_of: Callable[[int], Owner | None]) -> "Iterator[Drop]":
    """Yield rows under the names that `--json` and `--csv` use; None means unknown.

    `owner_of` finds the owner of the socket with an inode.
    """
    from lab.probes.drops.reasons import reason_of, reason_text  # noqa: PLC0415 (reads the kernel's types)

    owners = list(map(owner_of, rows["inode"].tolist()))
    return fields.dictionaries(
        fields.heads("drops", rows["time_ns"])
        | {
            "netns": rows["netns"].tolist(),
            "reason": list(map(reason_of, rows)),
            "kernel_reason": list(map(reason_text, rows["reason"].tolist())),
            **fields.ends(rows, source="s", destination="d"),
            "flags": list(map(flags_text, rows["flags"].tolist())),
            "seq": rows["seq"].tolist(),
            "bytes": rows["size"].tolist(),
            "pid": [owner and owner.pid for owner in owners],
            "comm": [owner and owner.comm for owner in owners],
        }
    )


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
    yield from map(line, as_dicts(with_size(observed.recording.events["drops"]), lambda _: None))
