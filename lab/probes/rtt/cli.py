"""Histograms of TCP's round-trip times (RTT), as the kernel measures them.

By default: the smoothed RTT (srtt), once for each segment that a socket
receives in ESTABLISHED. With --raw: the single RTT samples. Times are in whole
microseconds, the kernel's own resolution.

Key       connections of the histogram: all, one address, or one connection
Latency   arithmetic mean; Cnt is the number of values
min       exact minimum; p50 and p99 are the bounds of the quantile's bucket
low -> high : count   number of values from low to high, both included
unclear   samples whose value is unknown: the kernel did not run the probe for a
          segment in between
distorted handshakes whose sample is not of the network; not in the histogram
"""

import argparse

from lab.ebpf.program import Program
from lab.live import drain, filters
from lab.live import output as live_output
from lab.live.output import Output
from lab.units import interval_s, positive_seconds

EXAMPLES = """\
examples:
  lab rtt                                 all connections, every 10 s
  lab rtt -i 1 --raddr-hist --dport 443   one histogram per server, every second
  lab rtt --raw --by-connection --json    single samples as JSON Lines
"""

DETAILS = """\
details:
  --show-ext adds the exact sum and maximum.

  The probe reads srtt when a segment arrives, before the kernel processes the
  segment's acknowledgement (tcp_rcv_established()). Therefore
  - the srtt contains the samples of earlier segments only,
  - it follows a change of the delay slowly: each sample has a weight of 1/8,
    so it needs more than ten samples to come close to the new value,
  - a socket that sends nothing keeps the srtt of its handshake,
  - a segment that arrives before the first sample is not counted.

  --raw has one sample of the handshake (SYN to SYN-ACK, or SYN-ACK to ACK), and
  one for each acknowledgement of new data in ESTABLISHED: from sending the
  oldest segment that it newly acknowledges until the acknowledgement arrives.
  - Both include the peer's delay before it acknowledges (delayed ACK, often
    40 ms).
  - Retransmitted segments have a sample only with TCP time stamps, in steps of
    1 ms.
  - A sample is counted when the next segment arrives or ESTABLISHED ends.
  - A socket that was open before the probe started is counted from its second
    segment on.

  A handshake is distorted on the side that accepts it, if
  - the segment that completes it carries data: the kernel ignored the client's
    acknowledgement without data (TCP_DEFER_ACCEPT, a full accept queue), or it
    was lost. The sample lasts until the client sends data,
  - it used a SYN cookie: the kernel does not know when it sent the SYN-ACK,
    and the sample is up to 64 ms too long,
  - an MPTCP subflow joins: the sample is in steps of 1 ms,
  - the SYNs of both sides crossed: the sample is half a round trip.
  On the side that connects, a SYN-ACK that answers a repeated SYN can echo the
  time stamp of the first SYN. The kernel's sample then includes the time-out of
  the SYN, a second or more (`lab retransmits` shows the repetition).
  Where the probe cannot tell (a listener that has sent cookies or has
  SO_REUSEPORT, MPTCP), samples of whole milliseconds count as distorted. With
  TCP_DEFER_ACCEPT, a client that closes without sending data has a sample that
  lasts until its FIN, and is counted. The smoothed RTT is the kernel's own and
  begins with the distorted sample.

  With --ms the fractions are cut off: the bucket 0 -> 1 is every value below
  2 ms.
"""

_FEW, _MANY = 1024, 65536  # entries of the map: groups of connections on all processors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "-i",
        "--interval",
        type=interval_s,
        default=10.0,
        metavar="S",
        help="print every S seconds (%(default)g)",
    )
    parser.add_argument(
        "-d", "--duration", type=positive_seconds, dest="seconds", default=argparse.SUPPRESS, metavar="S",
        help="same as --seconds",
    )  # fmt: skip
    parser.add_argument("--raw", action="store_true", help="count single RTT samples instead of the smoothed RTT")
    parser.add_argument("-m", "--ms", action="store_true", help="use milliseconds for the histogram")
    parser.add_argument("-T", "--timestamp", action="store_true", help="print the time of day before each histogram")
    parser.add_argument("-e", "--show-ext", action="store_true", help="also print the sum and the maximum")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("-b", "--laddr-hist", action="store_true", help="one histogram per local address")
    group.add_argument("-B", "--raddr-hist", action="store_true", help="one histogram per remote address")
    group.add_argument("-c", "--by-connection", action="store_true", help="one histogram per connection")
    filters.add_arguments(
        parser,
        aliases={
            "local-port": ("-p", "--sport"),
            "remote-port": ("-P", "--dport"),
            "local-address": ("-a", "--saddr"),
            "remote-address": ("-A", "--daddr"),
        },
        by_cgroup=True,
    )
    live_output.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print histograms until Ctrl-C or for `--seconds`."""
    program = Program.live("rtt", defines(args))
    unit_us = 1000 if args.ms else 1
    what = "RTT, not smoothed" if args.raw else "smoothed RTT"
    output = Output(args)
    choice = filters.chosen(args)
    with drain.totals(program, args.interval, args.seconds, choice=choice, account=output.account) as intervals:
        output.start()
        output.heading(f"TCP {what}, each {args.interval:g} s until Ctrl-C")
        from lab.probes.rtt.measure import folded
        from lab.probes.rtt.rows import Histogram
        from lab.probes.rtt.text import as_dict, block, csv_row

        def lines(values: Histogram) -> str:
            return "\n".join(block(values, unit_us, show_ext=args.show_ext, timestamp=args.timestamp))

        for totals in intervals:
            for row in output.shown(folded(totals)):
                values = as_dict(row, unit_us)
                output.row(csv_row(values, unit_us) if args.csv else values, lines)
    output.end()
    return 0


def defines(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the options as preprocessor definitions for bpf/rtt.c."""
    connection = args.by_connection
    one_group = not (args.laddr_hist or args.raddr_hist or connection)
    chosen = {
        "KEEP_SRTT": int(not args.raw),
        "KEEP_RTT": int(args.raw),
        "BY_LADDR": int(args.laddr_hist or connection),
        "BY_RADDR": int(args.raddr_hist or connection),
        "BY_PORTS": int(connection),
        "BUCKET_UNIT_US": 1000 if args.ms else 1,
        "MOST_KEYS": _FEW if one_group else _MANY,
    }
    return tuple(f"{name}={value}" for name, value in chosen.items())
