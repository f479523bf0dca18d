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
again (`lab.probes.duration.measure.lifetimes` says what each means; times are in nanoseconds, unknown ones null or empty).

A line comes when a connection is over: after both FINs, or a RST. Segments without SYN, FIN and RST are not looked at. So a RST is
believed when its sequence number is not behind its sender's SYN, although the receiver may find it outside its window; and an
attempt that an ICMP message has ended counts as not answered. What the network has duplicated counts as sent again. The table holds
100,000 connections. When there are more, it forgets the oldest, and says so.
"""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lab.ebpf.program import Program
from lab.errors import LabError
from lab.live import drain
from lab.live import output as live_output
from lab.live.output import Output
from lab.pictures import require_drawable
from lab.tcp import SYN_TIMEOUT_NS
from lab.units import duration_ns, port

if TYPE_CHECKING:
    from lab.probes.duration.statistics_file import DurationsFile

EXAMPLES = """\
examples:
  lab duration -i eth0                             each connection that ends, seen at eth0
  lab duration -i eth0 --dport 443 --verbose       those to servers' port 443, with everything known of them
  lab duration -i eth0 --output statistics.dat     append the lines to a file as well
  lab duration --plot graph.png --from statistics.dat   draw the histogram of a file; needs no privileges
"""

_INTERVAL_S = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    live_output.add_device_arguments(parser)
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
    live_output.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print connections that end until Ctrl-C, or for `--seconds`; or draw what a file has."""
    if args.plot is not None:
        require_drawable(args.plot)
    if args.source is not None:
        return _draw_from(args.source, args.plot)
    device = live_output.device_of(args)
    file = _file(args.output)
    program = Program.load("duration")
    ring = program.ring
    if ring is None:
        raise TypeError("the program has no ring")
    output = Output(args)
    gone: LabError | None = None
    with drain.ticks(program, _INTERVAL_S, args.seconds, [device]) as ticks:
        output.start()
        from lab.probes.duration.text import HEAD, Show
        from lab.probes.duration.tracker import Tracker

        output.heading(HEAD)
        show, table = Show(args, device.ifname, output, file), Tracker(args.syn_timeout)
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


def _file(path: Path | None) -> "DurationsFile | None":
    if path is None:
        return None
    from lab.probes.duration.statistics_file import DurationsFile

    return DurationsFile(path)


def _draw_from(source: Path, plot: Path | None) -> int:
    if plot is None:
        raise LabError("--from says what to draw, not where: give --plot graph.png as well")
    from lab.probes.duration.statistics_file import Histogram, read_durations

    histogram = Histogram()
    histogram.add(read_durations(source))
    histogram.draw(plot)
    return 0
