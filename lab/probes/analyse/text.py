"""Steps of connections as text: dictionaries for `--json` and `--csv`, descriptions in words, and the table."""

import errno
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from lab.arrays import Rows
from lab.live import fields
from lab.probes.analyse.head import LINE, NARROW, SHORT, header, width_of
from lab.probes.analyse.measure import Kind, Role, Takes, joined, latency_ns, points, uncalled
from lab.tcp import UNSPECIFIED, State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.observation import Observed
    from lab.probes.analyse.rows import Step

_STATES = {0: None} | {state.value: state.name for state in State}
_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")  # RFC 9293, 3.1


def as_dicts(rows: Rows) -> "Iterator[Step]":
    """Yield rows with the keys of `--json` and `--csv`; None is unknown."""
    kind, owned, returns = rows["kind"], rows["tgid"] != 0, rows["returns"] != 0
    is_packet = np.isin(kind, (Kind.ARRIVED, Kind.PROCESSED))
    laddr = fields.addresses(rows["laddr"])
    local_known = (rows["lport"] > 0) | ~np.isin(laddr, UNSPECIFIED)
    return fields.dictionaries(
        fields.heads("analyse", rows["time_ns"])
        | {
            "netns": rows["netns"].tolist(),
            "local_address": fields.known(laddr, local_known),
            "local_port": fields.not_zero(rows["lport"]),
            "remote_address": fields.known(fields.addresses(rows["raddr"]), rows["rport"] > 0),
            "remote_port": fields.not_zero(rows["rport"]),
            "role": fields.known(fields.words(Role, rows["role"]), rows["role"] != Role.UNKNOWN),
            "pid": fields.known(rows["tgid"], owned),
            "comm": fields.known(fields.texts(rows["comm"]), owned),
            "tid": fields.not_zero(rows["tid"]),
            "thread": fields.known(fields.texts(rows["thread"]), rows["tid"] > 0),
            "skaddr": fields.hexadecimal(rows["skaddr"]),
            "mptcp": fields.known(fields.hexadecimal(rows["mptcp"]), rows["mptcp"] > 0),
            "ip": [6 if ":" in address else 4 for address in laddr],
            "func": fields.looked_up(points(), rows["point"]),
            "step": fields.words(Kind, kind),
            "returns": fields.known(returns, kind <= Kind.CLOSE),
            "takes": fields.known(fields.words(Takes, rows["takes"]), returns & (kind == Kind.RECEIVE)),
            "observed_call": fields.known(~uncalled(rows), np.isin(kind, (Kind.OPENED, Kind.SENT, Kind.RECEIVED))),
            "result": fields.known(rows["result"], returns),
            "latency_ns": fields.times(latency_ns(rows)),
            "seq": fields.known(rows["seq"], is_packet),
            "length": fields.known(rows["length"], is_packet),
            "flags": fields.known(list(map(_flags, rows["flags"].tolist())), is_packet),
            "oldstate": fields.looked_up(_STATES, rows["oldstate"]),
            "state": fields.looked_up(_STATES, rows["state"]),
            "connect_time_ns": fields.times(rows["connect_ns"]),
        }
    )


@cache
def _flags(bits: int) -> str:
    return " ".join(name for bit, name in enumerate(_FLAGS) if bits >> bit & 1)


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
