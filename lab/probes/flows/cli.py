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
from lab.live import tool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.observation import Observed
    from lab.probes.flows.text import Said
    from lab.verdict import Check

EXAMPLES = """\
examples:
  lab flows -i eth0                        who talks to whom, refreshed every second
  lab flows -i eth0 --connections -n 20    the 20 largest connections, both directions of each
  lab flows --delta --interval 10 --csv    what each 10 seconds have added, as comma-separated values
"""

_MOST_ROWS = 65536


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    tool.add_device_arguments(parser)
    parser.add_argument("-c", "--connections", action="store_true", help="each connection, with both of its directions")
    parser.add_argument("-m", "--mac", action="store_true", help="tell MAC addresses too, and apart")
    parser.add_argument(
        "-n", "--top", type=_count, metavar="N", help="only the N with most packets (default: all that fit)"
    )
    parser.add_argument(
        "--interval", type=_interval, default=1.0, metavar="S", help="seconds between reports (%(default)g)"
    )
    parser.add_argument("-d", "--delta", action="store_true", help="count each interval anew, not from the start")
    tool.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print a report each interval until Ctrl-C, or for `--seconds`."""
    device = tool.device_of(args)
    output = tool.Output(args)
    with tool.totals(Program.load("flows"), args.interval, args.seconds, [device]) as batches:
        output.start()
        from lab.probes.flows import measure
        from lab.probes.flows import text as traffic_report

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
            shown = [traffic_report.as_dict(row, names) for row in rows[: min(room, args.top or len(rows))]]
            if so_far.older["rows"]:
                shown.append(traffic_report.older(shown[0], so_far.older))
            if args.json or args.csv:
                time_ns = time.monotonic_ns()
                for row in shown:
                    output.row({"time_ns": time_ns} | row, str)
            else:
                print(_separator(number), end="")
                _print_report(shown, len(rows), args)
    return 0


def _print_report(shown: "list[Said]", count: int, args: argparse.Namespace) -> None:
    from lab.probes.flows import text as traffic_report

    width = terminal.columns()  # a line that wraps takes two
    for line in traffic_report.table(shown, connections=args.connections, macs=args.mac):
        print(line[:width])
    listed = sum(row["protocol"] != traffic_report.OLDER for row in shown)
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


def table(observed: "Observed") -> "Iterator[str]":
    """Yield what the live tool would have printed for both hosts."""
    from lab.probes.flows import measure
    from lab.probes.flows import text as traffic_report

    devices = observed.recording.devices
    names = {index: name for index, (name, _) in devices.items()}
    totals = observed.recording.totals["flows"]
    by_host = (measure.largest_first(measure.pairs(totals[totals["ifindex"] == index])) for index in devices)
    yield from traffic_report.table([traffic_report.as_dict(row, names) for rows in by_host for row in rows])


def judge(observed: "Observed", scenario: str) -> "Iterator[Check]":
    """Compare what was counted at both hosts with what the applications and the hosts' own counters know; yields every check."""
    from lab.probes.flows.judge import judge_all

    return judge_all(observed, scenario)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"`{text}` is no number of lines: give 1 or more")
    return int(text)


def _interval(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0.1 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"`{text}` is no interval: give a number of seconds from 0.1 to 86400")
    return value
