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

Where kernel functions can be observed, steps are seen at tcp_v4_connect, tcp_v6_connect, tcp_sendmsg (of sendfile(), before Linux
6.5, tcp_sendpage), tcp_recvmsg (returns), tcp_v4_rcv, tcp_v6_rcv (the packet's own addresses), tcp_rcv_established and
tcp_rcv_state_process (returns: old and new state); else at the tracepoints and the hook near them (of sending and receiving, before
Linux 6.3, the system calls alone tell). Since Linux 7 fentry would miss some of what threads send and receive: there it is seen at
the tracepoints. All changes of state are told by their tracepoint. The hook sees what reaches a socket: not what a timewait minisock
takes, and of a handshake the SYN and the ACK at the listener. Receiving is stamped when data is returned, so the wait is part of its
time. Not seen: the calls of io_uring, sendfile(), splice() and 32-bit programs; what a minisock does (lab states tells).

By fentry the kernel passes over the return of a call that waits in one of these functions when another program comes to the function
or leaves it meanwhile, and by kprobe of calls that wait beside 4096 others. The row is missing, and counted as lost when the system
call returns.
"""

import argparse
from functools import partial
from pathlib import Path

from lab.ebpf.program import Program
from lab.errors import LabError
from lab.live import drain
from lab.live import output as live_output
from lab.live.output import Output
from lab.units import duration_ns, port

EXAMPLES = """\
examples:
  lab analyse client                   every connection that is made on this machine, step by step
  lab analyse service -L 9999          what happens to the connections of local port 9999
  lab analyse client -p 4711 -m 10ms   which calls of process 4711 took 10 ms or longer
  lab analyse service --netns web --json --seconds 10
"""

_SIDES = ("client", "service")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("side", choices=_SIDES, help="whose side of each connection")
    parser.add_argument(
        "-m", "--min", type=duration_ns, dest="minimum", metavar="TIME", help="only what took at least: 250us, 10ms"
    )
    parser.add_argument("-p", "--pid", type=int, metavar="PID", help="sockets of this process")
    parser.add_argument("-L", "--localport", type=port, nargs="+", metavar="PORT", help="of these local ports")
    parser.add_argument("-w", "--wide", action="store_true", help="columns as wide as IPv6 addresses")
    live_output.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print steps until Ctrl-C, or for `--seconds`."""
    if args.pid is not None and not Path(f"/proc/{args.pid}").exists():
        raise LabError(f"there is no process {args.pid}: give the PID of one that runs (`pgrep` finds it by name)")
    output = Output(args)
    with drain.events_by_time(Program.load("analyse"), args.seconds, netns=live_output.netns_of(args)) as batches:
        output.start()
        from lab.probes.analyse.measure import Role
        from lab.probes.analyse.text import as_dicts, header, line
        from lab.probes.analyse.tracker import Tracker

        output.heading(header(wide=args.wide))
        role = Role[args.side.upper()]
        line_of = partial(line, wide=args.wide)
        tracker = Tracker(role, tgid=args.pid, lports=args.localport, least_ns=args.minimum)
        for batch in batches:
            for row in as_dicts(tracker.rows(batch)):
                output.row(row, line_of)
    output.note(tracker.end())
    return 0
