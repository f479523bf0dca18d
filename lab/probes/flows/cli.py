"""Traffic of a network interface by endpoint pair, or by connection: packets and bytes as they are on the wire.

PROTOCOL   TCP, UDP, ICMP, ... by number (IP-253) where it has no name here; ARP and what else is not IP by its own, or by ethertype
           (0x88b5; LLC: IEEE 802.3 without one); other (why) for what cannot be read: truncated, malformed, too many headers
SOURCE     address that the packets are from, DESTINATION that they are for; MAC addresses where there are no IP addresses
PACKETS    packets on the wire: one skb that the device cuts up (GSO), or that was joined (GRO), counts as all that it stands for
BYTES      of their Ethernet frames: with headers, of each packet, and VLAN tags; without preamble and frame check sequence, and
           at egress without the padding that a device adds below 60 bytes
INTERFACE  where they passed, with VLAN ids behind a dot (eth0.10.20), DIRECTION ingress or egress

Each packet is one packet of one row. Fragments, of which only the first has ports, are in their addresses' pair. On the loopback a
packet passes twice, going out and coming back in, and is counted where it goes out. What a tunnel has put around a super-packet
counts once for the whole at ingress.

With --connections each connection has a line of its own. SOURCE is then the end whose packet was seen first, PACKETS and BYTES go
from there to DESTINATION, REPLIES and REPLY BYTES come back; START is the time of day of the first packet, DURATION lasts until the
latest, in seconds. The port is - where a packet has none, or hides it: later fragments, ESP. A connection that uses the ports of an
earlier one goes on in its line; one that was open before the start begins with its first packet after it.

Counts are since the start, or of the latest interval with --delta. The kernel has room for 65536 flows in an interval; packets that
find none are counted as lost. Beyond 65536 lines, the longest idle ones are summed up in a last line, `older`. --json and --csv
have every number exact; payload_bytes is what TCP and UDP carry, syns, fins and rsts are segments, time_ns is the report's.
"""

import argparse
import shutil
import sys
import time
from typing import TYPE_CHECKING

from lab import terminal
from lab.ebpf.program import Program
from lab.live import drain
from lab.live import output as live_output
from lab.live.output import Output

if TYPE_CHECKING:
    from lab.probes.flows.text import Said

EXAMPLES = """\
examples:
  lab flows -i eth0                        who talks to whom, refreshed every second
  lab flows -i eth0 --connections -n 20    the 20 largest connections, both directions of each
  lab flows --delta --interval 10 --csv    what each 10 seconds have added, as comma-separated values
"""

_MOST_ROWS = 65536


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    live_output.add_device_arguments(parser)
    parser.add_argument("-c", "--connections", action="store_true", help="each connection, with both of its directions")
    parser.add_argument("-m", "--mac", action="store_true", help="tell MAC addresses too, and apart")
    parser.add_argument(
        "-n", "--top", type=_count, metavar="N", help="only the N with most packets (default: all that fit)"
    )
    parser.add_argument(
        "--interval", type=_interval, default=1.0, metavar="S", help="seconds between reports (%(default)g)"
    )
    parser.add_argument("-d", "--delta", action="store_true", help="count each interval anew, not from the start")
    live_output.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print a report each interval until Ctrl-C, or for `--seconds`."""
    device = live_output.device_of(args)
    output = Output(args)
    with drain.totals(Program.load("flows"), args.interval, args.seconds, [device]) as batches:
        output.start()
        from lab.probes.flows import measure, text

        group = measure.connections if args.connections else measure.pairs
        key = (measure.CONNECTION if args.connections else measure.PAIR) + measure.MACS * args.mac
        so_far = measure.Accumulated(key, _MOST_ROWS)
        names = {device.ifindex: device.ifname}
        for number, batch in enumerate(batches):
            added = group(batch, macs=args.mac)
            rows = measure.largest_first(added if args.delta else so_far.add(added))
            if args.connections:
                rows = measure.from_first_sender(rows)
            room = _lines_that_fit() if sys.stdout.isatty() and not (args.json or args.csv) else len(rows)
            shown = [text.as_dict(row, names) for row in rows[: min(room, args.top or len(rows))]]
            if so_far.older["rows"]:
                shown.append(text.older(shown[0], so_far.older))
            if args.json or args.csv:
                time_ns = time.monotonic_ns()
                for row in shown:
                    output.row({"time_ns": time_ns} | row, str)
            else:
                print(_separator(number), end="")
                _print_report(shown, len(rows), args)
    return 0


def _print_report(shown: "list[Said]", count: int, args: argparse.Namespace) -> None:
    from lab.probes.flows import text

    width = terminal.columns()  # a line that wraps takes two
    for line in text.lines(shown, connections=args.connections, macs=args.mac):
        print(line[:width])
    listed = sum(row["protocol"] != text.OLDER for row in shown)
    if count > listed:
        print(f"... and {count - listed} more")


def _separator(number: int) -> str:
    """Return what goes before a report: on a terminal it takes the place of the one before (ECMA-48)."""
    if sys.stdout.isatty():
        return "\033[H\033[J"
    return "\n" if number else ""


def _lines_that_fit() -> int:
    """How many rows a terminal has room for, beside the head, two lines of sums and the cursor's own."""
    return max(1, shutil.get_terminal_size().lines - 4)


def _count(word: str) -> int:
    if not word.isdecimal() or not int(word):
        raise argparse.ArgumentTypeError(f"`{word}` is no number of lines: give 1 or more")
    return int(word)


def _interval(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = 0
    if not 0.1 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"`{word}` is no interval: give a number of seconds from 0.1 to 86400")
    return value
