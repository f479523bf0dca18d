"""State changes as text: one line each, and the dictionary that `--json` and `--csv` print."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lab.arrays import UNKNOWN, Row
from lab.clock import CLOCK, time_of_day
from lab.tcp import State, address_text

if TYPE_CHECKING:
    from lab.observation import Observed


def table(observed: "Observed") -> Iterator[str]:
    """Yield the lines that the live tool would have printed for both hosts."""
    from lab.probes.states.measure import transitions  # noqa: PLC0415 (NumPy)

    wide = any(":" in connection.client.flow.laddr for connection in observed.connections)
    yield header(wide=wide)
    for row in transitions(observed.recording.events["states"]):
        if row["netns"] in observed.inodes:
            yield line(as_dict(row), wide=wide)


def header(*, wide: bool = False, timestamp: bool = False) -> str:
    """Return the header line of the table."""
    width = 39 if wide else 15
    when = f"{'TIME':<15} " if timestamp else ""
    return (
        f"{when}{'SKADDR':<16} {'C-PID':<7} {'C-COMM':<10} {'LADDR':<{width}} {'LPORT':<5} "
        f"{'RADDR':<{width}} {'RPORT':<5} {'OLDSTATE':<11} -> {'NEWSTATE':<11} MS"
    )


def line(row: dict[str, object], *, wide: bool = False, timestamp: bool = False) -> str:
    """Return one row of the table."""
    width = 39 if wide else 15
    when = f"{time_of_day(row['time_ns']):<15} " if timestamp else ""
    duration_ns = row["duration_ns"]
    ms = "-" if not isinstance(duration_ns, int) else f"{duration_ns / 1e6:.3f}"
    pid, comm, lport, rport = ("-" if row[name] is None else row[name] for name in ("pid", "comm", "lport", "rport"))
    return (
        f"{when}{row['skaddr']:<16} {pid:<7} {comm:<10.10} {row['laddr']:<{width}} {lport:<5} "
        f"{row['raddr']:<{width}} {rport:<5} {row['oldstate']:<11} -> {row['newstate']:<11} {ms}"
    )


def as_dict(row: Row) -> dict[str, object]:
    """Return one row under the names that `--json` and `--csv` use; None means unknown."""
    known = int(row["tgid"]) != 0
    duration_ns = int(row["duration_ns"])
    return {
        "time_ns": int(row["time_ns"]),
        "clock": CLOCK,
        "skaddr": f"{int(row['skaddr']):x}",
        "netns": int(row["netns"]),
        "pid": int(row["tgid"]) if known else None,
        "comm": row["comm"].decode(errors="replace") if known else None,
        "tid": int(row["tid"]) if known else None,
        "thread": row["thread"].decode(errors="replace") if known else None,
        "laddr": address_text(bytes(row["laddr"])),
        "lport": int(row["lport"]) or None,
        "raddr": address_text(bytes(row["raddr"])),
        "rport": int(row["rport"]) or None,
        "oldstate": State(row["oldstate"]).name,
        "newstate": State(row["newstate"]).name,
        "duration_ns": None if duration_ns == UNKNOWN else duration_ns,
    }
