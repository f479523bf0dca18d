"""TCP state changes, and how long each socket stayed in each state.

SKADDR    kernel address of the socket
C-PID     process whose system call made the change, C-COMM its name; after
          close() the process that closed the socket; - if unknown
LADDR     local address, LPORT its port; - before connect() has bound a port
RADDR     remote address, RPORT its port; IPv4-mapped addresses shown as IPv4
OLDSTATE  state left, NEWSTATE state entered, spelt as in the kernel
MS        milliseconds spent in OLDSTATE; - if unknown: in a socket's first
          row, and after a lost event
"""

import argparse
from functools import partial

from lab.ebpf.program import Program
from lab.live import drain, filters
from lab.live import output as live_output
from lab.live.output import Output

EXAMPLES = """\
examples:
  lab states                       every change on this machine
  lab states --port 9999           connections with this port, on either side
  lab states --netns web --json    connections of one netns, as JSON Lines
"""

DETAILS = """\
details:
  C-PID is known for the changes that only a process makes that holds the
  socket: connect(), listen(), shutdown(), close(). Segments and timers make the
  other changes. Any process may hold the socket then, since fork() and
  SCM_RIGHTS pass it on, so C-PID is - until a process closes the socket. It is
  - for changes by `ss -K` and by threads of the kernel (MPTCP). --json also has
  the thread that made the system call (tid, thread). PIDs are those of the PID
  namespace that the tool runs in; a process outside of it is -.

  SYN_RECV of a passive open is the kernel's own sample of the handshake, from
  SYN-ACK to final ACK (tcp_synack_rtt_meas()), because the socket is created
  only at the final ACK. Its resolution is 1 us. MS is - if the SYN-ACK was
  retransmitted, and where the sample is not of the network: if the final ACK
  carries data (TCP_DEFER_ACCEPT, a full accept queue, a lost ACK), with SYN
  cookies, and for an MPTCP subflow that joins. With TCP_DEFER_ACCEPT and a
  client that closes without sending data, it lasts until the client's FIN.
  Data in the SYN (TCP Fast Open) creates the socket: then SYN_RECV lasts from
  the SYN to the final ACK.

  FIN_WAIT2 of an active close lasts until the peer's FIN or until
  tcp_fin_timeout, also after close() has replaced the socket with a timewait
  minisock. CLOSE follows if a RST, data, `ss -K` or the time-out ends the
  minisock. TIME_WAIT is the last state reported, whatever ends it. FIN_WAIT2
  has no further row if there is no room for another minisock
  (tcp_max_tw_buckets).

  --pid and --comm keep the rows whose C-PID or C-COMM is given, which are the
  changes that the process itself makes. On a terminal of less than 118 columns
  SKADDR and LADDR are left out (--wide: all).

  The kernel may not run the probe for a change of state. At the end the tool
  says how often a row does not continue from the socket's last one.

  Two processors can each create a socket for the same connection request. The
  second socket goes from SYN_RECV to CLOSE at once and is never accepted.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    filters.add_arguments(
        parser, aliases={"local-port": ("-L", "--localport"), "remote-port": ("-D", "--remoteport")}, by_cgroup=True
    )
    filters.add_process_arguments(parser)
    parser.add_argument(
        "-T", "--timestamp", action="store_true", help="print the time of day at the start of each line"
    )
    live_output.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print state changes until Ctrl-C or for `--seconds`."""
    output = Output(args)
    shown = {"wide": args.wide, "timestamp": args.timestamp, "columns": output.width}
    choice = filters.chosen(args)
    with drain.events(Program.live("states"), args.seconds, choice=choice, account=output.account) as batches:
        output.start()
        from lab.probes.states.text import as_dicts, header, line

        output.heading(header(**shown))
        line_of = partial(line, **shown)
        from lab.probes.states.tracker import Tracker

        tracker, comms = Tracker(choice), [name.encode() for name in args.comm]
        for batch in batches:
            rows = tracker.rows(batch)
            output.rows(rows[filters.of_process(rows, args.pid, comms)], as_dicts, line_of)
    output.note(tracker.end())
    output.end()
    return 0
