"""TCP state changes, and how long each socket stayed in each state.

SKADDR    kernel address of the socket
C-PID     process that owns the socket, C-COMM its name; - until that process itself has changed the socket's state (what a
          server accepts is known to be its own when it closes), since at other times any bystander may be current
LADDR     local address and port (- before connect() has bound one), RADDR the remote ones; IPv4-mapped as IPv4
OLDSTATE  the state left, NEWSTATE the state entered, as the kernel spells them
MS        milliseconds spent in OLDSTATE; - when nobody can know: in a socket's first row, or after a lost event

SYN_RECV of a passive open is the time from SYN-ACK to final ACK that the kernel measured (to the microsecond, with SYN
cookies to some 64 ms, - when the SYN-ACK was retransmitted): the socket itself appears only at the final ACK. After an active
close FIN_WAIT2 lasts until the peer's FIN, also when close() has replaced the socket by a timewait minisock, or until that has
waited long enough (tcp_fin_timeout); TIME_WAIT is where the report ends. No further row comes when data comes instead of the FIN,
or when there is no room for one more minisock (tcp_max_tw_buckets). Two processors can take segments for one request at a time:
of the two sockets that come of it, the second goes from SYN_RECV to CLOSE at once, and nobody is ever given it.
"""

import argparse
from functools import partial

from lab.arrays import plain
from lab.ebpf.program import Program
from lab.live import drain
from lab.live import output as live_output
from lab.live.output import Output
from lab.units import port

EXAMPLES = """\
examples:
  lab states                       every change on this machine
  lab states -L 9999 --seconds 10  connections of the local port 9999
  lab states --netns web --json    those of one network namespace, as JSON Lines
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "-L", "--localport", type=port, nargs="+", metavar="PORT", help="connections of these local ports"
    )
    parser.add_argument("-D", "--remoteport", type=port, nargs="+", metavar="PORT", help="of these remote ports")
    family = parser.add_mutually_exclusive_group()
    family.add_argument(
        "-4", "--ipv4", action="store_const", dest="version", const=4, help="IPv4 only, mapped included"
    )
    family.add_argument("-6", "--ipv6", action="store_const", dest="version", const=6, help="IPv6 only")
    parser.add_argument("-w", "--wide", action="store_true", help="columns as wide as IPv6 addresses")
    parser.add_argument("-T", "--timestamp", action="store_true", help="begin each line with the time of day")
    live_output.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print changes until Ctrl-C, or for `--seconds`."""
    shown = {"wide": args.wide, "timestamp": args.timestamp}
    output = Output(args)
    with drain.events(Program.load("states"), args.seconds, netns=live_output.netns_of(args)) as batches:
        output.start()
        from lab.probes.states.text import as_dict, header, line
        from lab.probes.states.tracker import Tracker

        output.heading(header(**shown))
        line_of = partial(line, **shown)

        tracker = Tracker(args.localport, args.remoteport, args.version)
        for batch in batches:
            for row in plain(tracker.rows(batch)):
                output.row(as_dict(row), line_of)
    output.note(tracker.end())
    return 0
