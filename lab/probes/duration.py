"""How long TCP connections last, from the first SYN to the first FIN, as an interface sees them.

    192.168.143.246:43052 ->   137.226.34.46:80    | Duration: 0.244123127  s

Left is the client, who sent the first SYN, with its port; right the server. The duration is the time from the first SYN, also when
that was lost and repeated, to the first FIN or RST of either side; both stamps are taken when the segment passes TC at the
interface: what leaves before any queue of the interface, what arrives before IP has seen it. The time that a segment is on its way
to the other host is not in it. Behind a further bar stands what is out of the ordinary (always, with --verbose):

rst by client   one side has reset the connection; "fin by client, then rst" when a side had closed its direction before
refused         the answer to the SYN was a RST
timeout         no SYN was answered; said --syn-timeout after the last one, and one sent still later counts as another
                attempt. The duration is -, since nothing ended
replaced        another connection has begun with the same addresses and ports, so this one must have ended unseen
start not seen  it was open before; the duration is -. When not even the SYN-ACK was seen, who stands left has ended it first
SYN sent n x    the client has sent its SYN n times

--json and --csv have the time to the second FIN, who closed first, the time to the SYN-ACK, and how often SYN and FIN were sent
again (`lab.lifetimes.lifetimes` says what each means; times are in nanoseconds, unknown ones null or empty).

A line comes when a connection is over: after both FINs, or a RST. Segments without SYN, FIN and RST are not looked at. So a RST is
believed when its sequence number is not behind its sender's SYN, although the receiver may find it outside its window; and an
attempt that an ICMP message has ended counts as not answered. What the network has duplicated counts as sent again. The table holds
100,000 connections. When there are more, it forgets the oldest, and says so.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lab import live
from lab.connection_table import MOST_CONNECTIONS, ConnectionTable
from lab.durations import DurationsFile, Histogram, line, read_durations
from lab.errors import LabError
from lab.lifetimes import SYN_TIMEOUT_NS, TIMES, Ended, Rows, Side, lifetimes
from lab.measure import UNKNOWN
from lab.picture import require_drawable
from lab.program import Program
from lab.recording import CLOCK
from lab.segment_truth import judge_connections
from lab.tcp import address_text
from lab.units import duration_ns, port
from lab.verdict import Check

if TYPE_CHECKING:
    from lab.observed import Observed  # brings the topology, which a live tool does not need

EXAMPLES = """\
examples:
  lab duration -i eth0                             each connection that ends, seen at eth0
  lab duration -i eth0 --dport 443 --verbose       those to servers' port 443, with everything known of them
  lab duration -i eth0 --output statistics.dat     append the lines to a file as well
  lab duration --plot graph.png --from statistics.dat   draw the histogram of a file; needs no privileges
"""

_INTERVAL_S = 0.1
_HEAD = f"{'client':>15}:{'port':<5} -> {'server':>15}:{'port':<5} | first SYN to first FIN"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    live.add_device_arguments(parser)
    parser.add_argument("--sport", type=port, nargs="+", metavar="PORT", help="only clients with one of these ports")
    parser.add_argument("--dport", type=port, nargs="+", metavar="PORT", help="only servers with one of these ports")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="tell how each connection ended, and who closed it"
    )
    parser.add_argument("--open", action="store_true", help="at the end, also list the connections that are still open")
    parser.add_argument(
        "--syn-timeout",
        type=duration_ns,
        default=SYN_TIMEOUT_NS,
        metavar="TIME",
        help="an attempt has failed when it has sent no SYN for so long (130s: TCP waits at most 120 s for its next SYN)",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="append the lines to this file as well")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw a histogram of the durations (.png, .svg, .pdf)"
    )
    parser.add_argument(
        "--from",
        type=Path,
        dest="source",
        metavar="FILE",
        help="draw what this file has (from --output); watch nothing",
    )
    live.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print connections that end until Ctrl-C, or for `--seconds`; or draw what a file has."""
    if args.plot is not None:
        require_drawable(args.plot)
    if args.source is not None:
        return _draw_from(args.source, args.plot)
    device = live.device_of(args)
    show = Show(args, device.ifname)
    table = ConnectionTable(args.syn_timeout)
    program = Program.load("duration")
    ring = program.ring
    if ring is None:
        raise TypeError("the program has no ring")
    gone: LabError | None = None
    with live.ticks(program, _INTERVAL_S, args.seconds, [device]) as ticks:
        show.start()
        try:
            for _ in ticks:
                now_ns = time.monotonic_ns()
                show.rows(table.take(ring.drain(), now_ns))
                show.forgotten(table.forgotten)
        except LabError as error:  # the interface has gone; what it has told before is kept
            gone = error
        show.end(*table.finish(time.monotonic_ns()))
    if gone:
        raise gone
    return 0


class Show:
    """Where rows go: standard output, the file, the histogram."""

    def __init__(self, args: argparse.Namespace, ifname: str) -> None:
        self._args, self._ifname = args, ifname
        self._output = live.Output(args, _HEAD, lambda row: text(row, verbose=args.verbose))
        self._file = DurationsFile(args.output) if args.output is not None else None
        self._histogram = Histogram()
        self._forgotten = 0

    def start(self) -> None:
        """Show that the probe is attached."""
        self._output.start()

    def rows(self, rows: Rows | None) -> None:
        """Show connections that have ended."""
        wanted = [row for row in self._as_dicts(rows) if self._wanted(row)]
        if self._file and wanted:
            self._output.note(self._file.append([text(row, verbose=self._args.verbose) for row in wanted]))
        for row in wanted:
            self._output.row(row)
        self._histogram.add(row["duration_ns"] for row in wanted if isinstance(row["duration_ns"], int))

    def forgotten(self, count: int) -> None:
        """Say that the table is full, the first time."""
        if count and not self._forgotten:
            self._output.note(f"more than {MOST_CONNECTIONS} connections are open: the oldest are forgotten")
        self._forgotten = count

    def end(self, ended: Rows | None, still_open: Rows | None) -> None:
        """Show what remains, and draw."""
        self.rows(ended)
        remaining = [row for row in self._as_dicts(still_open) if self._wanted(row)]
        if self._args.open:
            for row in remaining:
                self._output.row(row)
        elif remaining:
            self._output.note(f"connections still open: {len(remaining)} (--open lists them)")
        if self._forgotten:
            self._output.note(f"connections forgotten: {self._forgotten}")
        if self._file:
            if self._file.missing:
                self._output.note(f"lines missing from {self._args.output}: {self._file.missing}")
            self._file.close()
        if self._args.plot is not None:
            self._histogram.draw(self._args.plot)

    def _as_dicts(self, rows: Rows | None) -> Iterator[dict[str, object]]:
        if rows is not None:
            yield from (as_dict(row, self._ifname) for row in rows)

    def _wanted(self, row: dict[str, object]) -> bool:
        """Apply the port filters; where the roles are not known, either side may be the client."""
        sides = [(row["sport"], row["dport"])]
        if not row["roles_known"]:
            sides.append((row["dport"], row["sport"]))
        sports, dports = self._args.sport, self._args.dport
        return any((not sports or client in sports) and (not dports or server in dports) for client, server in sides)


def _draw_from(source: Path, plot: Path | None) -> int:
    if plot is None:
        raise LabError("--from says what to draw, not where: give --plot graph.png as well")
    histogram = Histogram()
    histogram.add(read_durations(source))
    histogram.draw(plot)
    return 0


def as_dict(row: np.void, ifname: str) -> dict[str, object]:
    """One row under the names that `--json` and `--csv` use; None is unknown."""
    known = {name: None if row[name] == UNKNOWN else int(row[name]) for name in TIMES}
    side = Side(row["closed_first"])
    return {
        "interface": ifname,
        "vlan": int(row["vlan"]) or None,
        "inner_vlan": int(row["inner_vlan"]) or None,
        "saddr": address_text(row["saddr"].tobytes()),
        "sport": int(row["sport"]),
        "daddr": address_text(row["daddr"].tobytes()),
        "dport": int(row["dport"]),
        "roles_known": bool(row["roles_known"]),
        "clock": CLOCK,
        "start_ns": known["start_ns"],
        "synack_ns": known["synack_ns"],
        "duration_ns": known["duration_ns"],
        "second_fin_ns": known["second_fin_ns"],
        "end_ns": known["end_ns"],
        "over_ns": known["over_ns"],
        "ended": Ended(row["ended"]).name.lower(),
        "closed_first": side.name.lower() if side and row["roles_known"] else None,
        "syn_retransmissions": int(row["syn_retransmissions"]) if known["start_ns"] is not None else None,
        "fin_retransmissions": int(row["fin_retransmissions"]),
    }


def text(row: dict[str, object], *, verbose: bool = False) -> str:
    """One line of the table."""
    (saddr, sport), (daddr, dport) = ((str(row[f"{side}addr"]), int(str(row[f"{side}port"]))) for side in "sd")
    duration = row["duration_ns"]
    known = duration if isinstance(duration, int) else None
    return line((saddr, sport), (daddr, dport), known, ", ".join(_remarks(row, verbose=verbose)))


def _remarks(row: dict[str, object], *, verbose: bool) -> Iterator[str]:
    ended, by, second = row["ended"], row["closed_first"], row["second_fin_ns"]
    if ended == "rst" and row["over_ns"] != row["end_ns"]:
        yield "fin" + (f" by {by}" if by else "") + ", then rst"
    elif ended == "rst" or (verbose and ended == "fin"):
        yield f"{ended}" + (f" by {by}" if by else "")
    elif ended != "fin":
        yield str(ended)
    if row["start_ns"] is None:
        yield "start not seen"
    if isinstance(again := row["syn_retransmissions"], int) and again:
        yield f"SYN sent {again + 1} x"
    if verbose and isinstance(second, int):
        yield f"second fin after {second / 1e9:.9f} s"
    if verbose and row["fin_retransmissions"]:
        yield f"FIN sent again {row['fin_retransmissions']} x"


def table(observed: "Observed") -> Iterator[str]:
    """Yield what the live tool would have printed at each of the interfaces."""
    rows = lifetimes(observed.recording.events["duration"], observed.end_ns)
    for ifindex, (ifname, inode) in observed.recording.devices.items():
        who = ("client", "server")[observed.inodes.index(inode)] if inode in observed.inodes else "another host"
        yield f"{_HEAD}, at {ifname} of the {who}"
        for row in rows[rows["ifindex"] == ifindex]:
            yield text(as_dict(row, ifname))


def judge(observed: "Observed", scenario: str) -> Iterator[Check]:
    """Compare what each interface saw of the connections with what both applications know; yields every check."""
    rows = lifetimes(observed.recording.events["duration"], observed.end_ns)
    yield from judge_connections(observed, observed.judge(scenario, "duration"), rows)
