"""Retransmissions: TCP segments that the kernel sends again, SYN and SYN-ACK too.

TIME   time of day
STATE  of the connection; SYN_RECV for a SYN-ACK
WHAT   is sent again
BYTES  of data
N      how often this segment has been sent again, this time included
LOCAL  this machine's end of the connection, REMOTE the other end
"""

import argparse
from functools import partial

from lab.ebpf.program import Program
from lab.live import drain, filters
from lab.live import output as live_output
from lab.live.output import Output

EXAMPLES = """\
examples:
  lab retransmits                          every one on this machine
  lab retransmits --port 443 --seconds 60  connections with this port
  lab retransmits --netns web --json       those of a netns, as JSON Lines
"""

DETAILS = """\
details:
  A row is printed when the segment has left TCP. The kernel may drop it later,
  in the queue of the interface. An attempt that failed within TCP or IP is
  marked `not sent`, with its error, and does not count in N. Only Linux
  6.17 and later tell of these attempts.

  The sum of `segments` (SEGS) of the rows that were sent is the kernel's TcpRetransSegs
  (nstat), but that counts failed attempts as well.

  N is counted from the start of the tool, for the last 100,000 segments. A
  segment is known by its first sequence number: the kernel can join or cut
  segments before it sends them again. Tail loss probes (RFC 8985) send the last
  segment again and are among the rows.

  Keepalive probes, window probes and SYN-ACKs that answer a SYN that came again
  from SYN cookies are no retransmissions.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    filters.add_arguments(parser, by_cgroup=True)
    live_output.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print retransmissions until Ctrl-C or for `--seconds`."""
    output = Output(args)
    choice = filters.chosen(args)
    with drain.events(Program.live("retransmits"), args.seconds, choice=choice, account=output.account) as batches:
        output.start()
        from lab.probes.retransmits.text import as_dicts, header, line

        output.heading(header(wide=args.wide))
        from lab.probes.retransmits.measure import Counter

        counter, line_of = Counter(), partial(line, wide=args.wide)
        for batch in batches:
            output.rows(counter.rows(batch), as_dicts, line_of, alarming=lambda row: row["error"] is not None)
    output.end()
    return 0
