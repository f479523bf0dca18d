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
from collections import defaultdict
from collections.abc import Container, Iterator
from typing import TYPE_CHECKING

import numpy as np

from lab import live, traffic, traffic_report
from lab.carried import Counts, counts
from lab.program import Program
from lab.tcp import Flow
from lab.timeline import Connection
from lab.traffic import Direction, Rows
from lab.traffic_report import OLDER, Said, as_dict
from lab.traffic_truth import Way, segments_sent
from lab.verdict import Bracket, Check, Judge

if TYPE_CHECKING:
    from lab.observed import Observed  # brings the topology, which a live tool does not need

EXAMPLES = """\
examples:
  lab flows -i eth0                        who talks to whom, refreshed every second
  lab flows -i eth0 --connections -n 20    the 20 largest connections, both directions of each
  lab flows --delta --interval 10 --csv    what each 10 seconds have added, as comma-separated values
"""

_MOST_ROWS = 65536
_FLOW = ("ifindex", "direction", "saddr", "daddr", "sport", "dport")
_TCP = 6
_UNSPECIFIED = ("0.0.0.0", "::")  # noqa: S104 (as getsockname() tells it)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    live.add_device_arguments(parser)
    parser.add_argument("-c", "--connections", action="store_true", help="each connection, with both of its directions")
    parser.add_argument("-m", "--mac", action="store_true", help="tell MAC addresses too, and apart")
    parser.add_argument(
        "-n", "--top", type=_count, metavar="N", help="only the N with most packets (default: all that fit)"
    )
    parser.add_argument(
        "--interval", type=_interval, default=1.0, metavar="S", help="seconds between reports (%(default)g)"
    )
    parser.add_argument("-d", "--delta", action="store_true", help="count each interval anew, not from the start")
    live.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print a report each interval until Ctrl-C, or for `--seconds`."""
    device = live.device_of(args)
    group = traffic.connections if args.connections else traffic.pairs
    key = (traffic.CONNECTION if args.connections else traffic.PAIR) + traffic.MACS * args.mac
    so_far = traffic.Accumulated(key, _MOST_ROWS)
    output = live.Output(args, "", str)
    with live.totals(Program.load("flows"), args.interval, args.seconds, [device]) as batches:
        output.start()
        for number, batch in enumerate(batches):
            added = group(batch, macs=args.mac)
            rows = traffic.largest_first(added if args.delta else so_far.add(added))
            if args.connections:
                rows = traffic.from_first_sender(rows)
            room = _lines_that_fit() if sys.stdout.isatty() and not (args.json or args.csv) else len(rows)
            shown = [as_dict(row, {device.ifindex: device.ifname}) for row in rows[: min(room, args.top or len(rows))]]
            if so_far.older["rows"]:
                shown.append(traffic_report.older(shown[0], so_far.older))
            if args.json or args.csv:
                time_ns = time.monotonic_ns()
                for row in shown:
                    output.row({"time_ns": time_ns} | row)
            else:
                print(_separator(number), end="")
                _print_report(shown, len(rows), args)
    return 0


def _print_report(shown: list[Said], count: int, args: argparse.Namespace) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None  # a line that wraps takes two
    for line in traffic_report.table(shown, connections=args.connections, macs=args.mac):
        print(line[:width])
    listed = sum(row["protocol"] != OLDER for row in shown)
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


def table(observed: "Observed") -> Iterator[str]:
    """Yield what the live tool would have printed for both hosts."""
    devices = observed.recording.devices
    names = {index: name for index, (name, _) in devices.items()}
    totals = observed.recording.totals["flows"]
    by_host = (traffic.largest_first(traffic.pairs(totals[totals["ifindex"] == index])) for index in devices)
    yield from traffic_report.table([as_dict(row, names) for rows in by_host for row in rows])


def judge(observed: "Observed", scenario: str) -> Iterator[Check]:
    """Compare what was counted at both hosts with what the applications and the hosts' own counters know; yields every check.

    A wire that keeps a log tells exactly what left one host and what arrived at the other. Of any other wire it is said that
    what leaves one host arrives, so it must neither drop nor repeat.
    """
    judge = observed.judge(scenario, "flows")
    indexes = {inode: index for index, (_, inode) in observed.recording.devices.items()}
    client, server = (indexes[inode] for inode in observed.inodes)
    totals = observed.recording.totals["flows"]
    tcp = totals[(totals["protocol"] == _TCP) & (totals["version"] > 0)]
    for name, index, sent in zip(("client", "server"), (client, server), observed.sent, strict=True):
        mine = tcp[(tcp["ifindex"] == index) & (tcp["direction"] == Direction.EGRESS)]
        yield judge.count(f"the {name}'s host", "TCP packets sent", segments_sent(sent), int(mine["packets"].sum()))
    by_flow = defaultdict[Flow, list[Connection]](list)
    for connection in observed.connections:
        by_flow[connection.client.flow].append(connection)
    counted = {_key_of(row): row for row in traffic.merged(tcp, _FLOW)}
    for told, connections in by_flow.items():
        flows = _known(
            told, [flow for index, way, flow in counted if (index, way) == (client, Direction.EGRESS)], by_flow
        )
        ways = (("client", flows, client, server), ("server", [flow.reversed() for flow in flows], server, client))
        for (role, sides, here, there), sent in zip(ways, observed.sent, strict=True):
            left = _sum(tcp, [counted.get((here, Direction.EGRESS, side)) for side in sides])
            arrived = _sum(tcp, [counted.get((there, Direction.INGRESS, side)) for side in sides])
            subject = str(told if role == "client" else told.reversed())
            yield from _judge_way(judge, subject, Way(connections, role, sent, observed.end_ns), left, arrived)
            way = observed.wire.way(*sides) if observed.wire else None
            if way:
                yield judge.equal(subject, "what left", str(counts(way.left)), str(_counts(left)))
            yield judge.equal(
                subject, "what arrived", str(counts(way.arrived) if way else _counts(left)), str(_counts(arrived))
            )


def _known(flow: Flow, seen: list[Flow], others: Container[Flow]) -> list[Flow]:
    """Return the flow, or what it may have been if its owner never knew its address (a refused connection)."""
    if flow.laddr not in _UNSPECIFIED:
        return [flow]
    ends = (flow.raddr, flow.rport)
    return [it for it in seen if (it.raddr, it.rport) == ends and flow.lport in (0, it.lport) and it not in others]


def _sum(tcp: Rows, found: list[np.void | None]) -> np.void:
    """Add up rows of flows, none of which need be there."""
    rows = np.array([row for row in found if row is not None], traffic.merged(tcp[:0], _FLOW).dtype)
    summed = traffic.merged(rows, ("ifindex", "direction"))
    row: np.void = summed[0] if len(summed) else np.zeros(1, summed.dtype)[0]
    return row


def _judge_way(judge: Judge, subject: str, way: Way, left: np.void, arrived: np.void) -> Iterator[Check]:
    packets, size, payload = (int(left[name]) for name in ("packets", "bytes", "payload_bytes"))
    yield judge.count(subject, "payload bytes", way.payload, payload)
    yield judge.count(subject, "packets", way.packets, packets)
    headers = Bracket(packets * way.headers.fewest, packets * way.headers.most, packets * way.headers.fewest)
    yield judge.count(subject, "bytes of headers", headers, size - payload)
    yield judge.count(subject, "SYN", way.syns, int(left["syns"]))
    yield judge.count(subject, "FIN", way.fins, int(left["fins"]))
    if packets:
        for host, row in (("left", left), ("arrived", arrived)):
            yield judge.duration(subject, f"first packet {host} at", way.first, int(row["first_ns"]))
            yield judge.duration(subject, f"last packet {host} at", way.last, int(row["last_ns"]))


def _counts(row: np.void) -> Counts:
    return Counts(*(int(row[name]) for name in ("packets", "bytes", "payload_bytes", "syns", "fins")))


def _key_of(row: np.void) -> tuple[int, int, Flow]:
    return int(row["ifindex"]), int(row["direction"]), Flow.of(row)


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
