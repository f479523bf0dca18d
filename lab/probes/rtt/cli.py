"""Round-trip times of TCP as the kernel takes them, in histograms.

Each segment that a socket in ESTABLISHED receives counts once, with the kernel's smoothed RTT (srtt) at that moment, before
the segment's own acknowledgement has been looked at. So srtt is what the segments before have made of it, an eighth of each
new sample at a time: after a step in the delay it takes more than ten samples to come near, and a socket that sends
nothing keeps the value of its handshake however long it receives. A segment that finds no srtt yet does not count.

--raw shows the samples themselves instead, each RTT that the kernel has taken between the handshake and the end of
ESTABLISHED, not smoothed: the handshake's own (SYN to SYN-ACK, SYN-ACK to ACK) and one for each acknowledgement that covers
something new, from the sending of the oldest segment that it is the first to cover to its arrival. Both contain what the peer waited
before it acknowledged (delayed ACK, often 40 ms). What was retransmitted is measured by TCP time stamps, in steps of a
millisecond, or without them not at all. A sample counts when the next segment comes, or ESTABLISHED ends. Sockets that were open
before are counted from their second segment on.

Key       who the histogram is about: everything, or one address or connection (in its network namespace)
Latency   arithmetic mean, Cnt number of values
min       exact, as are the sum and the largest; p50 and p99 are bounds: the quantile lies in that bucket
low -> high : count   values from low to high, both included; in milliseconds (--ms) fractions are cut off, so 0 -> 1 is
          everything below 2 ms. Times are in whole microseconds, which is all that the kernel keeps

sport and saddr are this machine's side of the socket, dport and daddr the peer's. A sample that the kernel took and that
cannot be told from its traces, because the probe was left out meanwhile, is counted as unclear and not guessed.
"""

import argparse
import ipaddress
import struct
import time

from lab.clock import CLOCK
from lab.ebpf.program import Program
from lab.live import drain
from lab.live import output as live_output
from lab.live.output import Output
from lab.units import port, positive_seconds

EXAMPLES = """\
examples:
  lab rtt                             every connection of this machine, each 10 s
  lab rtt -i 1 --raddr-hist --dport 443   a histogram for each server asked, each second
  lab rtt --raw --by-connection --json    single samples, not smoothed, as JSON Lines
"""

_FEW, _MANY = 1024, 65536  # groups, on all processors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "-i",
        "--interval",
        type=positive_seconds,
        default=10,
        metavar="S",
        help="print each S seconds (%(default)s)",
    )
    parser.add_argument(
        "-d", "--duration", type=positive_seconds, dest="seconds", default=argparse.SUPPRESS, metavar="S",
        help="the same as --seconds",
    )  # fmt: skip
    parser.add_argument("--raw", action="store_true", help="single RTT samples instead of the smoothed RTT")
    parser.add_argument("-m", "--ms", action="store_true", help="histogram in milliseconds")
    parser.add_argument("-T", "--timestamp", action="store_true", help="begin each histogram with the time of day")
    parser.add_argument("-e", "--show-ext", action="store_true", help="show the sum and the largest value as well")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("-b", "--laddr-hist", action="store_true", help="a histogram for each local address")
    group.add_argument("-B", "--raddr-hist", action="store_true", help="for each remote address")
    group.add_argument("-c", "--by-connection", action="store_true", help="for each connection")
    parser.add_argument("-p", "--sport", type=port, metavar="PORT", help="connections of this local port")
    parser.add_argument("-P", "--dport", type=port, metavar="PORT", help="of this remote port")
    parser.add_argument("-a", "--saddr", type=_address, metavar="ADDRESS", help="of this local address, IPv4 or IPv6")
    parser.add_argument("-A", "--daddr", type=_address, metavar="ADDRESS", help="of this remote address")
    family = parser.add_mutually_exclusive_group()
    family.add_argument(
        "-4", "--ipv4", action="store_const", dest="version", const=4, help="IPv4 only, mapped included"
    )
    family.add_argument("-6", "--ipv6", action="store_const", dest="version", const=6, help="IPv6 only")
    live_output.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print histograms until Ctrl-C, or for `--seconds`."""
    program = Program.load("rtt", defines(args))
    unit_us = 1000 if args.ms else 1
    what = "RTT, not smoothed" if args.raw else "smoothed RTT"
    output = Output(args)
    with drain.totals(program, args.interval, args.seconds, netns=live_output.netns_of(args)) as intervals:
        output.start()
        output.heading(f"TCP {what}, each {args.interval:g} s until Ctrl-C")
        from lab.probes.rtt.measure import as_dict, folded
        from lab.probes.rtt.text import block, csv_row

        def lines(values: dict[str, object]) -> str:
            return "\n".join(block(values, unit_us, show_ext=args.show_ext, timestamp=args.timestamp))

        for totals in intervals:
            about = {"time_ns": time.monotonic_ns(), "clock": CLOCK}
            for row in folded(totals):
                values = {**about, **as_dict(row, unit_us)}
                output.row(csv_row(values, unit_us) if args.csv else values, lines)
    return 0


def defines(args: argparse.Namespace) -> tuple[str, ...]:
    """Say what the options ask for as definitions for bpf/rtt.c."""
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
        "ONLY_VERSION": args.version,
        "ONLY_LPORT": args.sport,
        "ONLY_RPORT": args.dport,
        "ONLY_LADDR": args.saddr,
        "ONLY_RADDR": args.daddr,
    }
    return tuple(f"{name}={value}" for name, value in chosen.items() if value is not None)


def _address(text: str) -> str:
    """Parse an IP address (argparse type) into the words of `struct address`, as C writes them."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"`{text}` is no address: give one of IPv4 or IPv6, such as 192.0.2.1"
        ) from None
    packed = b"\xff\xff".rjust(12, b"\0") + address.packed if address.version == 4 else address.packed
    return ",".join(map(str, struct.unpack("=4I", packed)))
