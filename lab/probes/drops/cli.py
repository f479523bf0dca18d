"""Drops: TCP packets that the kernel gave up, with its reason and the socket's owner.

TIME    time of day
REASON  of the kernel, without SKB_DROP_REASON_: NO_SOCKET, NETFILTER_DROP, ...
FLAGS   of the segment, BYTES its data
C-PID   process that holds the socket, C-COMM its name; - if there is no
        socket, or no process holds it
"""

import argparse
from functools import partial

from lab.ebpf.program import Program
from lab.live import drain, filters
from lab.live import output as live_output
from lab.live.output import Output

EXAMPLES = """\
examples:
  lab drops                            every one on this machine
  lab drops --port 443 --seconds 60    packets from or to this port
  lab drops --netns web --json         those of a netns, as JSON Lines
"""

DETAILS = """\
details:
  The reasons are those of the running kernel (enum skb_drop_reason). Some:
    NO_SOCKET            no socket has the port: the sender gets a RST
    NETFILTER_DROP       a rule of nftables or iptables
    TCP_CSUM             wrong checksum
    SOCKET_BACKLOG, SOCKET_RCVBUFF   the application reads too slowly
    ACCEPT_QUEUE_FULL    of the listener. The kernel calls that NO_SOCKET, too;
                         --json has its word as kernel_reason
    IP_RPFILTER          the sender's address is reached by another interface
    QDISC_DROP, QDISC_OVERLIMIT      the queue of an interface is full
    NEIGH_FAILED         nobody has the address on the link

  Left out, unless --all is given, are packets that have done their work: a RST
  (TCP_RESET), data that is there already (TCP_OLD_DATA, TCP_OFOMERGE), what is
  left in the queues of a closed socket (QUEUE_PURGE, SOCKET_CLOSE), and packets
  for other hosts that an interface sees (OTHERHOST). Packets that the kernel
  frees without a reason (NOT_SPECIFIED) are never shown: most are no loss, and
  some are.

  Not seen:
  - SYNs for which the accept queue has no room: the kernel frees them without
    a reason (`nstat TcpExtListenDrops` counts them),
  - packets that a driver frees without a reason,
  - fragments but the first, IPv6 with extension headers, and tunnelled packets
    until they are unpacked.

  The kernel names the receiving socket since Linux 6.11. C-PID is looked up
  when the row is printed. Linux before 5.17 gives no reasons: the tool says so
  and ends.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    filters.add_arguments(parser, filters.PACKETS, by_cgroup=True)
    filters.add_process_arguments(parser)
    parser.add_argument("--all", action="store_true", help="also packets that have done their work")
    live_output.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print freed packets until Ctrl-C or for `--seconds`."""
    output = Output(args)
    choice = filters.chosen(args)
    with drain.events(Program.live("drops"), args.seconds, choice=choice, account=output.account) as batches:
        output.start()
        from lab.probes.drops.text import as_dicts, header, line

        output.heading(header(output.width))
        line_of = partial(line, columns=output.width)
        import numpy as np

        from lab.linux.process import SocketOwners
        from lab.probes.drops.measure import with_size
        from lab.probes.drops.reasons import NO_LOSS, numbers

        owners, left_out = SocketOwners(), [] if args.all else numbers(NO_LOSS)
        for batch in batches:
            rows = with_size(batch)
            rows = rows[~np.isin(rows["reason"], left_out)]
            if args.pid or args.comm:
                holders = map(owners.of, rows["inode"].tolist())
                rows = rows[[filters.is_of_process(holder, args.pid, args.comm) for holder in holders]]
            output.rows(rows, partial(as_dicts, owner_of=owners.of), line_of)
    output.end()
    return 0
