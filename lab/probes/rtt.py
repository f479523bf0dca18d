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
import time
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from lab import live, round_trips, truth_rtt
from lab.histogram import picture, slot_of
from lab.program import Program
from lab.recording import CLOCK
from lab.round_trips import Kind, Rows, all_together, as_dict, bucket_us, folded, slots_of
from lab.tcp import Flow, endpoint
from lab.truth_rtt import Samples
from lab.units import port
from lab.verdict import Bracket, Check, Judge

if TYPE_CHECKING:
    from lab.observed import Observed  # brings the topology, which a live tool does not need

EXAMPLES = """\
examples:
  lab rtt                             every connection of this machine, each 10 s
  lab rtt -i 1 --raddr-hist --dport 443   a histogram for each server asked, each second
  lab rtt --raw --by-connection --json    single samples, not smoothed, as JSON Lines
"""

_RESOLUTION_NS = 1000  # the kernel subtracts times that it has cut to whole microseconds
_BY_TIME_STAMPS_NS = 1_000_000  # the tick of TCP's time stamps, which measure what was sent again (RFC 7323, 4)
_FEW, _MANY = 1024, 65536  # groups, on all processors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "-i",
        "--interval",
        type=live.positive_seconds,
        default=10,
        metavar="S",
        help="print each S seconds (%(default)s)",
    )
    parser.add_argument(
        "-d", "--duration", type=live.positive_seconds, dest="seconds", default=argparse.SUPPRESS, metavar="S",
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
    live.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print histograms until Ctrl-C, or for `--seconds`."""
    program = Program.load("rtt", defines(args))
    unit_us = 1000 if args.ms else 1
    what = "RTT, not smoothed" if args.raw else "smoothed RTT"
    header = f"TCP {what}, each {args.interval:g} s until Ctrl-C"
    output = live.Output(args, header, lambda values: "\n".join(_block(values, args, unit_us)))
    with live.totals(program, args.interval, args.seconds, netns=live.netns_of(args)) as intervals:
        output.start()
        for totals in intervals:
            about = {"time_ns": time.monotonic_ns(), "clock": CLOCK}
            for row in folded(totals):
                values = {**about, **as_dict(row, unit_us)}
                output.row(_one_line(values, unit_us) if args.csv else values)
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
    return ",".join(map(str, np.frombuffer(packed, np.uint32)))


def _one_line(values: dict[str, Any], unit_us: int) -> dict[str, object]:
    """Return a row whose buckets are columns of their own, named by their bounds."""
    counts = enumerate(slots_of(values["buckets"], unit_us))
    columns = {"{}-{}_us".format(*bucket_us(slot, unit_us)): count for slot, count in counts}
    return {name: value for name, value in values.items() if name != "buckets"} | columns


def _block(values: dict[str, Any], args: argparse.Namespace, unit_us: int) -> Iterator[str]:
    if args.timestamp:
        yield live.time_of_day(values["time_ns"])
    yield from block(values, unit_us, show_ext=args.show_ext)


def block(values: dict[str, Any], unit_us: int = 1, *, show_ext: bool = False) -> Iterator[str]:
    """Yield the lines of one histogram."""
    unit = "msecs" if unit_us > 1 else "usecs"
    yield f"Key: {_who(values)}"
    if values["count"]:
        figures = {name: _time(values[name], unit_us) for name in values if name.endswith("_us")}
        yield f"Latency = {values['sum_us'] / values['count'] / unit_us:.3f} {unit}, Cnt = {values['count']}"
        if show_ext:
            yield f"Sum = {figures['sum_us']} {unit}, Max = {figures['max_us']} {unit}"
        quantiles = (
            f"{name} {figures[f'{name}_low_us']} -> {figures[f'{name}_high_us']}" for name in round_trips.QUANTILES
        )
        yield f"min {figures['min_us']}, {', '.join(quantiles)} {unit}"
    if values["unclear"]:
        yield f"unclear: {values['unclear']} samples"
    yield from picture(slots_of(values["buckets"], unit_us), unit)
    yield ""


def _time(value_us: int, unit_us: int) -> str:
    return f"{value_us / unit_us:.3f}" if unit_us > 1 else str(value_us)


def _who(values: dict[str, Any]) -> str:
    netns_text = f" in netns {values['netns']}"
    if values["lport"]:
        here, there = (endpoint(values[f"{side}addr"], values[f"{side}port"]) for side in "lr")
        return f"{here} -> {there}{netns_text}"
    for side, name in (("l", "local"), ("r", "remote")):
        if values[f"{side}addr"]:
            return f"{name} {values[f'{side}addr']}{netns_text}"
    return "all connections"


def table(observed: "Observed") -> Iterator[str]:
    """Yield what the live tool would have printed for both hosts, without and with --raw."""
    for row in all_together(_of_hosts(observed)):
        yield f"{'smoothed RTT' if row['kind'] == Kind.SRTT else 'RTT samples (--raw)'}, both hosts"
        yield from block(as_dict(row))


def _of_hosts(observed: "Observed") -> Rows:
    totals = observed.recording.totals["rtt"]
    return totals[np.isin(totals["netns"], observed.inodes)]


def judge(observed: "Observed", scenario: str, least_ns: int = 0) -> Iterator[Check]:
    """Compare what the probe added up for each socket with what both applications know; yields every check.

    `least_ns` is what the wire alone takes for a round trip, in nanoseconds; a wire's log tells it for each connection.
    """
    judge = observed.judge(scenario, "rtt")
    rows = folded(_of_hosts(observed))
    mine = {(int(row["netns"]), Flow.of(row, "l", "r"), Kind(row["kind"])): row for row in rows}
    client, server = observed.inodes
    by_flow = sorted(observed.connections, key=lambda connection: connection.client.flow)
    for flow, group in groupby(by_flow, key=lambda connection: connection.client.flow):
        same = list(group)  # connections that have used the same ports in turn are one group to the probe
        sides = ((client, flow, truth_rtt.sent_by_client), (server, flow.reversed(), truth_rtt.sent_by_server))
        for inode, here, sent_by in sides:
            sent = [one for connection in same for one in sent_by(connection, observed.end_ns)]
            if sent:
                srtt, rtt = (mine.get((inode, here, kind), np.zeros((), rows.dtype)[()]) for kind in Kind)
                shortest_ns, resolution_ns = least_ns, _RESOLUTION_NS
                if observed.wire:
                    shortest_ns = observed.wire.shortest_round_trip_ns(flow)
                    if observed.wire.way(here).again:
                        resolution_ns = _BY_TIME_STAMPS_NS
                yield from _judge_socket(
                    judge, str(here), srtt, rtt, truth_rtt.samples(sent, shortest_ns), resolution_ns
                )


def _judge_socket(
    judge: Judge, subject: str, srtt: np.void, rtt: np.void, truth: Samples, resolution_ns: int
) -> Iterator[Check]:
    def time(quantity: str, truth: Bracket, us: int, samples: int = 1) -> Check:
        return judge.duration(subject, quantity, truth, us * 1000, resolution_ns * samples)

    yield judge.count(subject, "RTT samples", truth.number, int(rtt["count"]))
    yield judge.equal(subject, "unclear RTT samples", 0, int(rtt["unclear"]))
    # Each message that was certainly acknowledged was so by a segment of its own. How many others came nobody can tell.
    received, least = int(srtt["count"]), max(0, truth.number.low - 1)
    yield judge.count(subject, "segments with an srtt", Bracket(least, max(least, received), least), received)
    if rtt["count"]:
        yield time("smallest RTT sample", truth.smallest, int(rtt["min_us"]))
        yield time("largest RTT sample", truth.largest, int(rtt["max_us"]))
        if truth.total and rtt["count"] == truth.number.high:
            yield time("sum of RTT samples", truth.total, int(rtt["sum_us"]), int(rtt["count"]))
        yield _judge_buckets(judge, subject, "RTT", rtt)
    if srtt["count"]:
        yield time("smallest srtt", truth.largest, int(srtt["min_us"]))
        yield time("largest srtt", truth.largest, int(srtt["max_us"]))
        yield _judge_buckets(judge, subject, "srtt", srtt)
        if rtt["count"]:
            # An average lies among what it is made of; tcp_rtt_estimator() rounds in a way that keeps this exact.
            among = Bracket(int(rtt["min_us"]), int(rtt["max_us"]), int(rtt["max_us"]))
            yield judge.count(subject, "smallest srtt among the samples, us", among, int(srtt["min_us"]))
            yield judge.count(subject, "largest srtt among the samples, us", among, int(srtt["max_us"]))


def _judge_buckets(judge: Judge, subject: str, kind: str, row: np.void) -> Check:
    """Judge whether the histogram holds as many values as were counted, from the smallest one's slot to the largest one's."""
    held, ends = np.flatnonzero(row["slots"]), [slot_of(int(row[name])) for name in ("min_us", "max_us")]
    expected = f"{row['count']} in slots {ends[0]} to {ends[1]}"
    return judge.equal(subject, f"{kind} histogram", expected, f"{row['slots'].sum()} in slots {held[0]} to {held[-1]}")
