"""Each step that the kernel takes for a TCP connection, and the time of connect().

client: sockets that call connect(). service: listeners and their connections.
Both show connections that were open before the tool started.

PID, COMM             process that owns the socket, and the process's name; -
                      until it is known
IP                    4 or 6 (an IPv4-mapped address is 4)
SADDR, DADDR, DPORT   local address, remote address and port; - until known
TIMESTAMP(us)         CLOCK_MONOTONIC; for a return: when the call returned
FUNC                  system call, kernel function, tracepoint or hook observed
TCP_STATE             state of the socket after the step; - if unknown
TCP_DESCRIPTION       the step; times run from the entry of the call
TCP_CONNECT_TIME(us)  client: from connect() to ESTABLISHED; with TCP Fast Open
                      from the send that opens. service: from SYN-ACK to ACK,
                      measured by the kernel; after data in the SYN from the
                      SYN to the ACK. - if unknown
"""

import argparse
from functools import partial

from lab.ebpf.program import Program
from lab.live import drain, filters
from lab.live import output as live_output
from lab.live.output import Output
from lab.probes.analyse.head import header
from lab.units import duration_ns

EXAMPLES = """\
examples:
  lab analyse client                   connections that this machine opens
  lab analyse service -L 9999          connections of local port 9999
  lab analyse client -p 4711 -m 10ms   calls of process 4711 that took >= 10 ms
  lab analyse service --netns web --json --seconds 10
"""

DETAILS = """\
details:
  PID, COMM: the process that made the last system call on the socket. Before
  the first call: the process that makes it. After a process has closed a
  descriptor of a socket that others hold: the process that called before, or
  none until the next call. --json has the thread that makes a call, and its
  name (tid, thread). PIDs are those of the PID namespace that the tool runs
  in; a process outside has none.

  SADDR, DADDR, DPORT: SADDR is the local address for incoming segments too.

  SADDR, DADDR, DPORT of connect(): the destination that the application gave,
  also if the call fails. A socket that connects again has new ends.

  TCP_CONNECT_TIME(us): shown in rows from ESTABLISHED on. It is unknown if the
  opening was not observed or if the SYN-ACK was retransmitted: the kernel then
  takes no sample (tcp_synack_rtt_meas()). It begins at the entry of the call
  that sends the SYN. With TCP_FASTOPEN_CONNECT that is the first send, and
  connect() can return before.

  A call that peeks (MSG_PEEK) leaves the data in the socket; one that reads the
  error queue (MSG_ERRQUEUE) returns none of it. Both are marked.

  A call that returns EINPROGRESS, EALREADY or EAGAIN has not failed. A call
  that a signal interrupts is entered again, or the application gets EINTR.

  MPTCP: an MPTCP socket has calls and state changes of its own, marked
  (MPTCP). Its subflows are TCP sockets that the kernel opens: they have the
  owner of the MPTCP socket, no calls and no connect time. --json names the
  MPTCP socket of each row (`mptcp`).

  --min keeps the rows that end a timed step: the return of a system call, the
  send or receive of TCP for it, and the change to ESTABLISHED (connect time).
  It removes all other rows, which have no latency. A receive is timestamped
  when the data is returned, so its latency includes the wait.

  Attach points with fentry or kprobe:
    tcp_v4_connect, tcp_v6_connect
    tcp_sendmsg (before Linux 6.5 also tcp_sendpage, for sendfile())
    tcp_recvmsg: its return
    tcp_v4_rcv, tcp_v6_rcv: with the addresses of the packet
    tcp_rcv_established
    tcp_rcv_state_process: its return, with the old and the new state
  Without them: the nearest tracepoints and the hook cgroup_skb ingress.
    - The hook runs when the socket has been found. It observes the SYN and the
      ACK of a handshake at the listener, and no segment that a timewait
      minisock takes.
    - Before Linux 6.3 no tracepoint reports the send and receive of TCP: only
      the system calls are shown.
  Since Linux 7, sends and receives are always observed at the tracepoints,
  because fentry would miss some of the sends and receives of threads.
  State changes are always observed at their tracepoint.

  Not observed:
    - that a process ends without close() or executes another program: the rows
      of a socket that others still hold name it until the next call
    - calls of io_uring and 32-bit programs. The work of TCP for them is shown
      as that of a call that is not observed, and the tool ends with the number
    - state changes of a minisock (`lab states` shows them)
  A missed return of a kernel function is counted as lost when the system call
  returns. The kernel does not run the program at the return of a call that was
  blocked
    - in a function that another program attaches to or detaches from (fentry)
    - next to 4096 other blocked calls (kprobe)
"""

_SIDES = ("client", "service")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("side", choices=_SIDES, help="the side of the connections to show")
    parser.add_argument(
        "-m",
        "--min",
        type=duration_ns,
        dest="minimum",
        metavar="TIME",
        help="only steps that took at least this long, e.g. 250us",
    )
    filters.add_arguments(parser, aliases={"local-port": ("-L", "--localport")})
    filters.add_process_arguments(parser)
    live_output.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print steps until Ctrl-C, or for `--seconds`."""
    output = Output(args)
    choice = filters.chosen(args)
    with drain.events(Program.live("analyse"), args.seconds, choice=choice, account=output.account) as batches:
        output.start()
        output.heading(header(wide=args.wide, columns=output.width))
        from lab.probes.analyse.measure import Role
        from lab.probes.analyse.text import as_dicts, line
        from lab.probes.analyse.tracker import Tracker

        role = Role[args.side.upper()]
        line_of = partial(line, wide=args.wide, columns=output.width)
        tracker = Tracker(role, choice, tgids=args.pid, comms=args.comm, least_ns=args.minimum)
        for batch in batches:
            output.rows(tracker.rows(batch), as_dicts, line_of)
    output.note(tracker.end())
    output.end()
    return 0
