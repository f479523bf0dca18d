"""Retransmissions as text: a line each, and the dictionary that `--json` and `--csv` print."""

import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lab.arrays import Rows
from lab.clock import time_of_day
from lab.live import fields
from lab.tcp import State, endpoint

if TYPE_CHECKING:
    from lab.observation import Observed
    from lab.probes.retransmits.rows import Retransmission

_TIME = {False: 8, True: 15}  # length of the time of day


def header(*, wide: bool = False) -> str:
    """Return the header line of the table."""
    segments = f"{'SEGS':>4} " if wide else ""
    return f"{'TIME':<{_TIME[wide]}} {'STATE':<11} {'WHAT':<8} {'BYTES':>6} {segments}{'N':>2} LOCAL -> REMOTE"


def as_dicts(rows: Rows) -> "Iterator[Retransmission]":
    """Yield rows under the names that `--json` and `--csv` use; None means unknown."""
    from lab.probes.retransmits.measure import kind_of  # noqa: PLC0415 (NumPy)

    return fields.dictionaries(
        fields.heads("retransmits", rows["time_ns"])
        | fields.sockets(rows)
        | {
            "state": fields.names(State, rows["state"]),
            "what": list(map(kind_of, rows)),
            "seq": rows["seq"].tolist(),
            "bytes": rows["size"].tolist(),
            "segments": rows["segments"].tolist(),
            "times": rows["times"].tolist(),
            "error": [errno.errorcode.get(error, str(error)) if error else None for error in rows["error"].tolist()],
        }
    )


def line(row: "Retransmission", *, wide: bool = False) -> str:
    """Return one line of the table."""
    ends = (
        f"{endpoint(row['local_address'], row['local_port'])} -> {endpoint(row['remote_address'], row['remote_port'])}"
    )
    state = "SYN_RECV" if row["state"] == State.NEW_SYN_RECV.name else row["state"]
    segments = f"{row['segments']:>4} " if wide else ""
    failed = f" not sent: {row['error']}" if row["error"] else ""
    return (
        f"{time_of_day(row['time_ns'])[: _TIME[wide]]} {state:<11} {row['what']:<8} {row['bytes']:>6} {segments}"
        f"{row['times']:>2} {ends}{failed}"
    )


def table(observed: "Observed") -> Iterator[str]:
    """Yield the lines that the live tool would have printed for both hosts."""
    from lab.probes.retransmits.measure import Counter  # noqa: PLC0415 (NumPy)

    yield header()
    yield from map(line, as_dicts(Counter().rows(observed.recording.events["retransmits"])))
