"""What the kernel does for each TCP connection, step by step, on the client's or the service's side.

`client` shows sockets that connect, `service` listeners and what comes from them. A connection that was open before is shown
by both, since nobody can know who opened it.

PID, COMM             process that owns the socket: the last to have made a system call on it, or the first that does; - until then
IP                    4 or 6; IPv4-mapped is 4
SADDR, DADDR, DPORT   local address, remote address and port, also of an incoming segment; - before there is one
TIMESTAMP(us)         CLOCK_MONOTONIC, of the step itself: of a return, when the call returned
FUNC                  where it was really observed: a system call, a kernel function, a tracepoint, the hook cgroup_skb_ingress
TCP_STATE             the socket's by then, the new one after a change; - when it is not known
TCP_DESCRIPTION       what happened. Times in it go from where the call was entered to where this step returned
TCP_CONNECT_TIME(us)  client: from connect() entered to ESTABLISHED; service: from SYN-ACK to ACK as the kernel measured it,
                      - when it did not (SYN-ACK retransmitted). In rows from ESTABLISHED on; - before, and when nobody saw it

--min keeps the rows that end something which took at least that long: a system call that returns, the kernel's sending or
receiving for it, the change to ESTABLISHED (with the connect time). Other rows have no latency and are left out then.

Where kernel functions can be observed, steps are seen at tcp_v4_connect, tcp_v6_connect, tcp_sendmsg, tcp_recvmsg (returns),
tcp_v4_rcv, tcp_v6_rcv (the packet's own addresses), tcp_rcv_established and tcp_rcv_state_process (returns: old and new state);
else at the tracepoints and the hook near them (of sending and receiving, before Linux 6.3, the system calls alone tell). Since
Linux 7 fentry would miss some of what threads send and receive: there it is seen at the tracepoints. All changes of state are told
by their tracepoint. The hook sees what reaches a socket: not what a timewait minisock takes, and of a
handshake the SYN and the ACK at the listener. Receiving is stamped when data is returned, so the wait is part of its time. Not
seen: the calls of io_uring, sendfile(), splice() and 32-bit programs; what a minisock does (lab states tells).
"""

import argparse
import errno
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lab import live
from lab.errors import LabError
from lab.follow_steps import Follow
from lab.judge_steps import judge_all
from lab.measure import UNKNOWN
from lab.program import Program
from lab.recording import CLOCK
from lab.steps import Kind, Role, joined, latency_ns, points
from lab.tcp import State, address_text
from lab.units import duration_ns, port

if TYPE_CHECKING:
    from lab.observed import Observed
    from lab.verdict import Check

EXAMPLES = """\
examples:
  lab analyse client                   every connection that is made on this machine, step by step
  lab analyse service -L 9999          what happens to the connections of local port 9999
  lab analyse client -p 4711 -m 10ms   which calls of process 4711 took 10 ms or longer
  lab analyse service --netns web --json --seconds 10
"""

_ROLES = {"client": Role.CLIENT, "service": Role.SERVICE}
_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")  # RFC 9293, 3.1
_NOWHERE = ("::", "0.0.0.0")  # noqa: S104 (an address that is not known yet)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("side", choices=_ROLES, help="whose side of each connection")
    parser.add_argument(
        "-m", "--min", type=duration_ns, dest="minimum", metavar="TIME", help="only what took at least: 250us, 10ms"
    )
    parser.add_argument("-p", "--pid", type=int, metavar="PID", help="sockets of this process")
    parser.add_argument("-L", "--localport", type=port, nargs="+", metavar="PORT", help="of these local ports")
    parser.add_argument("-w", "--wide", action="store_true", help="columns as wide as IPv6 addresses")
    live.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print steps until Ctrl-C, or for `--seconds`."""
    if args.pid is not None and not Path(f"/proc/{args.pid}").exists():
        raise LabError(f"there is no process {args.pid}: give the PID of one that runs (`pgrep` finds it by name)")
    follow = Follow(
        _ROLES[args.side],
        tgid=args.pid,
        lports=args.localport,
        least_ns=args.minimum,
    )
    output = live.Output(args, header(wide=args.wide), lambda row: line(row, wide=args.wide))
    with live.events_by_time(Program.load("analyse"), args.seconds, netns=live.netns_of(args)) as batches:
        output.start()
        for batch in batches:
            for row in as_dicts(follow.rows(batch)):
                output.row(row)
    output.note(follow.end())
    return 0


def as_dicts(rows: np.ndarray) -> Iterator[dict[str, object]]:
    """Yield rows under the names that `--json` and `--csv` use; None is unknown."""
    for row, latency in zip(rows, latency_ns(rows).tolist(), strict=True):
        kind, owned = Kind(row["kind"]), int(row["tgid"]) != 0
        packet = kind in (Kind.ARRIVED, Kind.PROCESSED)
        laddr, raddr = (address_text(row[name].tobytes()) for name in ("laddr", "raddr"))
        connect_ns = int(row["connect_ns"])
        yield {
            "time_ns": int(row["time_ns"]),
            "clock": CLOCK,
            "role": Role(row["role"]).name.lower() if row["role"] else None,
            "pid": int(row["tgid"]) if owned else None,
            "comm": row["comm"].decode(errors="replace") if owned else None,
            "netns": int(row["netns"]),
            "skaddr": f"{int(row['skaddr']):x}",
            "ip": 6 if ":" in laddr else 4,
            "saddr": laddr if row["lport"] or laddr not in _NOWHERE else None,
            "sport": int(row["lport"]) or None,
            "daddr": raddr if row["rport"] else None,
            "dport": int(row["rport"]) or None,
            "func": points()[row["point"]],
            "step": kind.name.lower(),
            "returns": bool(row["returns"]) if kind <= Kind.CLOSE else None,
            "result": int(row["result"]) if row["returns"] else None,
            "latency_ns": None if latency == UNKNOWN else latency,
            "seq": int(row["seq"]) if packet else None,
            "length": int(row["length"]) if packet else None,
            "flags": " ".join(name for bit, name in enumerate(_FLAGS) if row["flags"] >> bit & 1) if packet else None,
            "oldstate": State(row["oldstate"]).name if row["oldstate"] else None,
            "state": State(row["state"]).name if row["state"] else None,
            "connect_time_ns": None if connect_ns == UNKNOWN else connect_ns,
        }


def description(row: dict[str, object]) -> str:
    """Say what happened, in words."""
    kind = Kind[str(row["step"]).upper()]
    latency, result = row["latency_ns"], row["result"]
    after = f", after {latency / 1e3:.1f} us" if isinstance(latency, int) else ""
    if isinstance(result, int) and result < 0:
        # From 512 on the kernel's own (include/linux/errno.h): the call goes on after the signal's handler.
        why = errno.errorcode.get(-result, "interrupted by a signal")
        return f"{row['func']}() failed: {why}{after}"
    if kind <= Kind.CLOSE:
        if not row["returns"]:
            return f"{row['func']}() entered by the application"
        counted = "messages" if row["func"] in ("sendmmsg", "recvmmsg") else "bytes"
        what = f" {result} {counted}" if kind in (Kind.SEND, Kind.RECEIVE) else ""
        return f"{row['func']}() returned{what}{after}"
    if kind is Kind.PROCESSED and row["oldstate"]:
        return f"state processing, from {row['oldstate']} to {row['state']}"
    waited = after.replace("after", "after waiting")
    return {
        Kind.OPENED: f"active open of {row['daddr']} port {row['dport']}",
        Kind.SENT: f"data taken by TCP, {result} bytes{after}",
        Kind.RECEIVED: f"data returned to the application, {result} bytes{waited}"
        if result
        else f"end of data{waited}",
        Kind.ARRIVED: f"segment reaches TCP, {row['flags']}, {row['length']} bytes, seq {row['seq']}",
        Kind.PROCESSED: f"segment processed, {row['flags']}, {row['length']} bytes, seq {row['seq']}",
        Kind.CHANGED: f"transfer from {row['oldstate']} to {row['state']}",
        Kind.DESTROYED: "socket destroyed",
    }[kind]


def table(observed: "Observed") -> Iterator[str]:
    """Yield what the live tool would have printed: each side's rows for its host."""
    wide = any(":" in connection.client.flow.laddr for connection in observed.connections)
    rows = joined(observed.recording.events["analyse"])
    for (side, role), inode in zip(_ROLES.items(), observed.inodes, strict=True):
        yield f"{side}:"
        yield header(wide=wide)
        for row in as_dicts(rows[(rows["netns"] == inode) & (rows["role"] == role)]):
            yield line(row, wide=wide)


def header(*, wide: bool = False) -> str:
    """Return the table's head line."""
    width = 39 if wide else 15
    return (
        f"{'PID':<7} {'COMM':<12} {'IP':<2} {'SADDR':<{width}} {'DADDR':<{width}} {'DPORT':<5} {'TIMESTAMP(us)':<16} "
        f"{'FUNC':<19} {'TCP_STATE':<11} {'TCP_DESCRIPTION':<72} TCP_CONNECT_TIME(us)"
    )


def line(row: dict[str, object], *, wide: bool = False) -> str:
    """One row of the table."""
    width = 39 if wide else 15
    shown = {name: "-" if value is None else value for name, value in row.items()}
    time_ns, connect_ns = row["time_ns"], row["connect_time_ns"]
    time_us = f"{time_ns / 1e3:.3f}" if isinstance(time_ns, int) else "-"
    connect_us = f"{connect_ns / 1e3:.3f}" if isinstance(connect_ns, int) else "-"
    return (
        f"{shown['pid']:<7} {shown['comm']:<12.12} {shown['ip']:<2} {shown['saddr']:<{width}} {shown['daddr']:<{width}} "
        f"{shown['dport']:<5} {time_us:<16} {shown['func']:<19} {shown['state']:<11} {description(row):<72} {connect_us}"
    )


def judge(observed: "Observed", scenario: str) -> Iterator["Check"]:
    """Compare each connection's steps with what both applications know; yields every check."""
    judge = observed.judge(scenario, "analyse")
    places = re.sub(r"(tracepoint:sys_(?:enter|exit)_)\w+", r"\1*", judge.attach_point).split(", ")
    yield from judge_all(observed, replace(judge, attach_point=", ".join(dict.fromkeys(places))))
