"""Traffic of a network interface, by pair of addresses or connection.

PROTOCOL     TCP, UDP, ICMP, ARP, ...; by number if it has no name here
SOURCE       sender's IP address; its MAC address if the packet is not IP; - if
             the interface has no Ethernet headers (tun)
DESTINATION  receiver's address
PACKETS      packets on the wire; a GSO or GRO skb counts as its segments
BYTES        of the Ethernet frames, with all headers and VLAN tags; of the IP
             packets if the interface has no Ethernet headers
INTERFACE    interface name and VLAN ids, separated by dots (eth0.10.20)
DIRECTION    ingress, or egress: handed to the interface, before its queue

With --connections each line is one connection:

SOURCE                the end that sent the first packet seen
PACKETS, BYTES        from SOURCE to DESTINATION
REPLIES, REPLY BYTES  from DESTINATION to SOURCE
START                 time of day of the first packet
DURATION              seconds from the first packet to the latest
"""

import argparse
import shutil
import sys
import time
from typing import TYPE_CHECKING

from lab.ebpf.interface import Device, defines_of
from lab.ebpf.program import Program
from lab.errors import LabError
from lab.linux.qdisc_statistics import Discipline, root_discipline
from lab.live import drain, filters
from lab.live import output as live_output
from lab.live.output import Output
from lab.units import count, interval_s

if TYPE_CHECKING:
    from lab.probes.flows.text import Record

EXAMPLES = """\
examples:
  lab flows -i eth0                        address pairs, refreshed every second
  lab flows -i eth0 --connections -n 20    the 20 largest connections
  lab flows --delta --interval 10 --csv    counts of each 10 seconds, as CSV
"""

DETAILS = """\
details:
  Protocols without a name are shown by IP protocol number (IP-253) or by
  ethertype (0x88b5). LLC is an IEEE 802.3 frame without an ethertype. Packets
  with unreadable headers are shown as `other` with the reason: truncated,
  malformed or too many headers.

  Each packet counts in exactly one row. Only the first fragment of a datagram
  has ports; later fragments count in the row of their address pair. The zone of
  a link-local address is the interface.

  One interface is observed. A packet that passes several, such as a macvlan or a
  VXLAN and its parent, counts once at each. Frames that a bridge forwards pass
  its ports and not the bridge's own interface: observe a port.

  BYTES does not include the preamble, the frame check sequence, or, at egress,
  the padding that a device adds to frames shorter than 60 bytes. At ingress the
  tunnel headers of a super-packet count once for the whole super-packet.

  Egress counts packets before the interface's queueing discipline, which may
  drop some of them. Its drops are shown below the table, and as qdisc_drops with
  --json and --csv: one number for the interface, the same in every row. It
  counts a super-packet as one packet. Frames that bypass the discipline are not
  counted: those of packet sockets with PACKET_QDISC_BYPASS, and of XDP.

  A loopback packet passes the interface twice. It is counted at egress only.
  Copies of multicast and broadcast datagrams that the host sends itself were
  never on the interface. They are not counted.

  A port is shown as - if the packet has none or hides it (later fragment, ESP).
  A connection that reuses the addresses and ports of an earlier one continues
  the earlier line. A connection that was open before the start is counted from
  its first packet after the start.

  Counts are since the start, or of the latest interval with --delta. The kernel
  has room for 65536 flows in an interval; packets of further flows are counted
  as lost. If there are more than 65536 lines, those idle for longest are summed
  up in a last line, `older`.

  --json and --csv print exact numbers. payload_bytes is the payload of TCP and
  UDP, also in later fragments; syns, fins and rsts count segments; time_ns is
  the time of the report.
"""

_MAX_ROWS = 65536


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    live_output.add_device_arguments(parser)
    filters.add_arguments(parser, filters.PACKETS)
    parser.add_argument("-c", "--connections", action="store_true", help="one line for each connection")
    parser.add_argument("-m", "--mac", action="store_true", help="show MAC addresses, and count by them")
    parser.add_argument(
        "-n", "--top", type=count, metavar="N", help="the N rows with most packets (default: all that fit)"
    )
    parser.add_argument(
        "--interval", type=interval_s, default=1.0, metavar="S", help="seconds between reports (%(default)g)"
    )
    parser.add_argument("-d", "--delta", action="store_true", help="count each interval separately")
    live_output.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print a report each interval until Ctrl-C, or for `--seconds`."""
    device = live_output.device_of(args)
    output = Output(args)
    program = Program.live("flows", defines_of([device]))
    discipline = _discipline(device)
    dropped = 0
    with drain.totals(program, args.interval, args.seconds, [device], filters.chosen(args), output.account) as batches:
        output.start()
        from lab.probes.flows import measure, text

        group = measure.connections if args.connections else measure.pairs
        key = (measure.CONNECTION if args.connections else measure.PAIR) + measure.MACS * args.mac
        so_far = measure.Accumulated(key, _MAX_ROWS)
        names = {device.ifindex: device.ifname}
        for number, batch in enumerate(batches):
            added = group(batch, macs=args.mac)
            if args.metrics:
                output.shown(measure.largest_first(added))
                continue
            rows = measure.largest_first(added if args.delta else so_far.add(added))
            if args.connections:
                rows = measure.from_first_sender(rows)
            before, discipline = discipline, _discipline(device) or discipline
            new = discipline.dropped_since(before) if discipline else 0
            dropped = new if args.delta else dropped + new
            room = (
                _lines_that_fit(2 + bool(dropped)) if sys.stdout.isatty() and not (args.json or args.csv) else len(rows)
            )
            drops, time_ns = dropped if discipline else None, time.monotonic_ns()
            shown = [
                text.as_dict(row, names, time_ns, ethernet=device.ethernet, drops=drops)
                for row in rows[: min(room, args.top or len(rows))]
            ]
            if so_far.older["rows"]:
                shown.append(text.older(so_far.older, time_ns))
            if args.json or args.csv:
                for row in shown:
                    output.row(row, str)
            else:
                print(_separator(number), end="")
                _print_report(shown, len(rows), args, output.width)
                if dropped:
                    print(f"{dropped} of them dropped at egress by {device.ifname}'s queueing discipline")
    output.end()
    return 0


def _discipline(device: Device) -> Discipline | None:
    """Return the interface's queueing discipline, None if it has none or has gone."""
    try:
        return device.inside(lambda: root_discipline(device.ifindex))
    except LabError:
        return None


def _print_report(shown: "list[Record]", count: int, args: argparse.Namespace, width: int | None) -> None:
    """Print the table, at most `width` columns wide; `count` is the number of rows before the limit of lines."""
    from lab.probes.flows import text

    for line in text.lines(shown, connections=args.connections, macs=args.mac, width=width):
        print(line)
    listed = sum(row["protocol"] != text.OLDER for row in shown)
    if count > listed:
        print(f"... and {count - listed} more")


def _separator(number: int) -> str:
    """Return the text before a report: on a terminal the control sequence that clears the screen (ECMA-48)."""
    if sys.stdout.isatty():
        return "\033[H\033[J"
    return "\n" if number else ""


def _lines_that_fit(sums: int) -> int:
    """Return how many rows fit on the terminal, next to the head, the lines of sums and the cursor's line."""
    return max(1, shutil.get_terminal_size().lines - 2 - sums)
