"""State changes as text: one line each, and the dictionary that `--json` and `--csv` print."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lab.arrays import Rows
from lab.clock import time_of_day
from lab.live import fields
from lab.tcp import State, endpoint

if TYPE_CHECKING:
    from lab.observation import Observed
    from lab.probes.states.rows import Change


def table(observed: "Observed") -> Iterator[str]:
    """Yield the lines that the live tool would have printed for both hosts."""
    import numpy as np  # noqa: PLC0415 (not needed for the header)

    from lab.probes.states.measure import transitions  # noqa: PLC0415

    wide = any(":" in connection.client.flow.laddr for connection in observed.connections)
    yield header(wide=wide)
    rows = transitions(observed.recording.events["states"])
    for row in as_dicts(rows[np.isin(rows["netns"], observed.inodes)]):
        yield line(row, wide=wide)


_NARROW = 118
"""A terminal with fewer columns gets lines without the socket's address and the local address."""


def header(*, wide: bool = False, timestamp: bool = False, columns: int | None = None) -> str:
    """Return the header line of the table for a terminal with this number of columns."""
    width = 39 if wide else 15
    when = f"{'TIME':<15} " if timestamp else ""
    if columns and columns < _NARROW:
        return f"{when}{'C-PID':<7} {'C-COMM':<8} {'LPORT':<5} {'MS':>9} {'OLDSTATE':<11} -> {'NEWSTATE':<11} REMOTE"
    return (
        f"{when}{'SKADDR':<16} {'C-PID':<7} {'C-COMM':<10} {'LADDR':<{width}} {'LPORT':<5} "
        f"{'RADDR':<{width}} {'RPORT':<5} {'OLDSTATE':<11} -> {'NEWSTATE':<11} MS"
    )


def line(row: "Change", *, wide: bool = False, timestamp: bool = False, columns: int | None = None) -> str:
    """Return one row of the table for a terminal with this number of columns."""
    width = 39 if wide else 15
    when = f"{time_of_day(row['time_ns']):<15} " if timestamp else ""
    ms = "-" if row["duration_ns"] is None else f"{row['duration_ns'] / 1e6:.3f}"
    pid, comm, lport, rport = (row[name] or "-" for name in ("pid", "comm", "local_port", "remote_port"))
    if columns and columns < _NARROW:
        remote = endpoint(row["remote_address"], rport)
        return f"{when}{pid:<7} {comm:<8.8} {lport:<5} {ms:>9} {row['oldstate']:<11} -> {row['newstate']:<11} {remote}"
    return (
        f"{when}{row['skaddr']:<16} {pid:<7} {comm:<10.10} {row['local_address']:<{width}} {lport:<5} "
        f"{row['remote_address']:<{width}} {rport:<5} {row['oldstate']:<11} -> {row['newstate']:<11} {ms}"
    )


def as_dicts(rows: Rows) -> "Iterator[Change]":
    """Yield rows under the names that `--json` and `--csv` use; None means unknown."""
    owned = rows["tgid"] != 0
    return fields.dictionaries(
        fields.heads("states", rows["time_ns"])
        | fields.sockets(rows)
        | {
            "skaddr": fields.hexadecimal(rows["skaddr"]),
            "pid": fields.known(rows["tgid"], owned),
            "comm": fields.known(fields.texts(rows["comm"]), owned),
            "tid": fields.known(rows["tid"], owned),
            "thread": fields.known(fields.texts(rows["thread"]), owned),
            "oldstate": fields.names(State, rows["oldstate"]),
            "newstate": fields.names(State, rows["newstate"]),
            "duration_ns": fields.times(rows["duration_ns"]),
        }
    )
