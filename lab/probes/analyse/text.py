"""Steps of connections as text: dictionaries for `--json` and `--csv`, descriptions in words, and the table."""

import errno
from typing import TYPE_CHECKING

import numpy as np

from lab.arrays import UNKNOWN, plain
from lab.live import fields
from lab.probes.analyse.head import LINE, NARROW, SHORT, header, width_of
from lab.probes.analyse.measure import Kind, Role, Takes, joined, latency_ns, points, uncalled
from lab.tcp import UNSPECIFIED, State, address_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.observation import Observed
    from lab.probes.analyse.rows import Step

_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")  # RFC 9293, 3.1


def as_dicts(rows: np.ndarray) -> "Iterator[Step]":
    """Yield rows with the keys of `--json` and `--csv`; None is unknown."""
    columns = (plain(rows), latency_ns(rows).tolist(), uncalled(rows).tolist())
    for row, latency, alone in zip(*columns, strict=True):
        kind, owned = Kind(row["kind"]), int(row["tgid"]) != 0
        packet = kind in (Kind.ARRIVED, Kind.PROCESSED)
        laddr, raddr = (address_text(bytes(row[name])) for name in ("laddr", "raddr"))
        connect_ns = int(row["connect_ns"])
        yield {
            **fields.head("analyse", int(row["time_ns"])),
            "netns": int(row["netns"]),
            "local_address": laddr if row["lport"] or laddr not in UNSPECIFIED else None,
            "local_port": int(row["lport"]) or None,
            "remote_address": raddr if row["rport"] else None,
            "remote_port": int(row["rport"]) or None,
            "role": Role(row["role"]).name.lower() if row["role"] else None,
            "pid": int(row["tgid"]) if owned else None,
            "comm": row["comm"].decode(errors="replace") if owned else None,
            "tid": int(row["tid"]) or None,
            "thread": row["thread"].decode(errors="replace") if row["tid"] else None,
            "skaddr": f"{int(row['skaddr']):x}",
            "mptcp": f"{int(row['mptcp']):x}" if row["mptcp"] else None,
            "ip": 6 if ":" in laddr else 4,
            "func": points()[row["point"]],
            "step": kind.name.lower(),
            "returns": bool(row["returns"]) if kind <= Kind.CLOSE else None,
            "takes": Takes(row["takes"]).name.lower() if kind is Kind.RECEIVE and row["returns"] else None,
            "observed_call": not alone if kind in (Kind.OPENED, Kind.SENT, Kind.RECEIVED) else None,
            "result": int(row["result"]) if row["returns"] else None,
            "latency_ns": None if latency == UNKNOWN else latency,
            "seq": int(row["seq"]) if packet else None,
            "length": int(row["length"]) if packet else None,
            "flags": " ".join(name for bit, name in enumerate(_FLAGS) if row["flags"] >> bit & 1) if packet else None,
            "oldstate": State(row["oldstate"]).name if row["oldstate"] else None,
            "state": State(row["state"]).name if row["state"] else None,
            "connect_time_ns": None if connect_ns == UNKNOWN else connect_ns,
        }


def description(row: "Step") -> str:
    """Return the step in words."""
    of_mptcp = row["mptcp"] is not None and row["mptcp"] == row["skaddr"]
    return f"{_step(row)} (MPTCP)" if of_mptcp else _step(row)


def _step(row: "Step") -> str:
    kind = Kind[row["step"].upper()]
    latency, result = row["latency_ns"], row["result"]
    after = f", after {latency / 1e3:.1f} us" if latency is not None else ""
    if result is not None and result < 0:
        return f"{row['func']}() {_outcome(kind, -result)}{after}"
    if kind is Kind.CONNECT and row["returns"] and row["state"] == "SYN_SENT":
        return f"connect() returned before any SYN was sent{after}"
    if kind <= Kind.CLOSE:
        if not row["returns"]:
            return f"{row['func']}() entered by the application"
        counted = "messages" if row["func"] in ("sendmmsg", "recvmmsg") else "bytes"
        what = f" {result} {counted}" if kind in (Kind.SEND, Kind.RECEIVE) else ""
        return f"{row['func']}() returned{what}{_REST.get(str(row['takes']), '')}{after}"
    if kind is Kind.PROCESSED and row["oldstate"]:
        return f"state processing, from {row['oldstate']} to {row['state']}"
    waited = after.replace("after", "after waiting")
    alone = ", by a call that is not observed" if row["observed_call"] is False else ""
    received = f"data returned to the application, {result} bytes"
    if not result:
        received = "no data" if row["state"] in ("ESTABLISHED", "FIN_WAIT1", "FIN_WAIT2") else "end of data"
    return {
        Kind.OPENED: f"active open of {row['remote_address']} port {row['remote_port']}{alone}",
        Kind.SENT: f"data taken by TCP, {result} bytes{after}{alone}",
        Kind.RECEIVED: f"{received}{waited}{alone}",
        Kind.ARRIVED: f"segment reaches TCP, {row['flags']}, {row['length']} bytes, seq {row['seq']}",
        Kind.PROCESSED: f"segment processed, {row['flags']}, {row['length']} bytes, seq {row['seq']}",
        Kind.CHANGED: f"transfer from {row['oldstate']} to {row['state']}",
        Kind.DESTROYED: "socket destroyed",
    }[kind]


_REST = {"nothing": " and leaves them in the socket", "errors": ", from the error queue"}
"""What a call that receives did not take from the socket's data."""

_NOTHING_YET = {
    Kind.ACCEPT: "no connection waits",
    Kind.SEND: "no room for data",
    Kind.SENT: "no room for data",
    Kind.RECEIVE: "no data",
    Kind.RECEIVED: "no data",
}
"""What a call that would have to wait lacks."""


def _outcome(kind: Kind, error: int) -> str:
    """Return how a call with this errno ended. Not every errno is a failure."""
    # Codes from 512 on are internal to the kernel (include/linux/errno.h). After the signal's handler the kernel enters
    # the call again, or the application gets EINTR.
    if error >= 512:
        return "interrupted by a signal"
    name = errno.errorcode.get(error, str(error))
    if error in (errno.EINPROGRESS, errno.EALREADY):
        return f"returned {name}, the connection is being opened"
    if error == errno.EAGAIN and kind in _NOTHING_YET:
        return f"returned {name}, {_NOTHING_YET[kind]}"
    return f"failed: {name}"


def line(row: "Step", *, wide: bool = False, columns: int | None = None) -> str:
    """Return one row of the table for a terminal with this number of columns."""
    shown = {name: "-" if value is None else value for name, value in row.items()}
    time_us, connect_ns = f"{row['time_ns'] / 1e3:.3f}", row["connect_time_ns"]
    connect_us = "-" if connect_ns is None else f"{connect_ns / 1e3:.3f}"
    if columns and columns < NARROW:
        return SHORT.format(shown["pid"], shown["remote_port"], time_us, shown["state"], description(row))
    ends = (shown[name] for name in ("pid", "comm", "ip", "local_address", "remote_address", "remote_port"))
    return LINE.format(
        *ends, time_us, shown["func"], shown["state"], description(row), connect_us, width=width_of(wide=wide)
    )


def table(observed: "Observed") -> "Iterator[str]":
    """Yield the table that the live tool would have printed on each host: the rows of its side."""
    wide = any(":" in connection.client.flow.laddr for connection in observed.connections)
    rows = joined(observed.recording.events["analyse"])
    for role, inode in zip((Role.CLIENT, Role.SERVICE), observed.inodes, strict=True):
        yield f"{role.name.lower()}:"
        yield header(wide=wide)
        for row in as_dicts(rows[(rows["netns"] == inode) & (rows["role"] == role)]):
            yield line(row, wide=wide)
