"""Duration of TCP connections, from the first SYN to the first FIN or RST.

     192.0.2.10:43052 ->      192.0.2.80:80    | Duration: 0.244123127  s

Left is the client (the sender of the first SYN), right the server. Remarks
follow after another bar, always with --verbose, otherwise if they apply:

rst by client   the client reset the connection; "fin by client, then rst" if
                the client sent a FIN first; for the server likewise
refused         the server answered the SYN with a RST
timeout         no answer to the SYN was seen; the duration is -
replaced        a new connection has the same addresses and ports
start not seen  the connection was open before; the duration is -
only from client
                no segment of the server passed before the client's FIN or RST:
                the other direction takes another path. The duration is from the
                client's SYN to its own FIN or RST. "only from server": from the
                server's SYN-ACK
open            only with --open: not over at the end; "fin by client, open" if
                only the client has closed, the duration is then to its FIN
SYN sent n x    the client sent its SYN n times
"""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lab.ebpf.interface import defines_of
from lab.ebpf.program import Program
from lab.errors import LabError
from lab.live import drain, filters
from lab.live import output as live_output
from lab.live.output import Output
from lab.output.pictures import require_drawable
from lab.probes.duration.head import head
from lab.tcp import SYN_TIMEOUT_NS
from lab.units import duration_ns

if TYPE_CHECKING:
    from lab.probes.duration.statistics_file import DurationsFile

EXAMPLES = """\
examples:
  lab duration -i eth0                          connections that end at eth0
  lab duration -i eth0 --port 443 --verbose     connections with port 443, all remarks
  lab duration -i eth0 --output statistics.dat  also append the lines to a file
  lab duration --plot graph.png --from statistics.dat
                                                draw the histogram of a file;
                                                needs no privileges
"""

DETAILS = """\
details:
  Time stamps are taken at TC: at egress before the segment enters a queue of
  the interface, at ingress before IP processes it. The duration does not
  include the time to the other host. It includes lost and repeated SYNs.

  A line is printed when a connection is over: after both FINs or a RST. A
  timeout is reported when --syn-timeout has passed since the last SYN; a later
  SYN counts as another attempt. If neither SYN nor SYN-ACK was seen, the left
  side is the sender of the first FIN or RST.

  The probe processes only segments with SYN, FIN or RST. Therefore
  - a FIN or RST counts if its sender can have reached its sequence number
    since the SYN, at 400 Gbit/s. Within 86 ms of the SYN this excludes most
    segments of an earlier connection with the same addresses and ports. The
    receiver may still ignore a RST, because it is outside the window,
  - an attempt that was ended by an ICMP message is reported as a timeout,
  - if only the client's direction passes the interface, a refusal is reported
    as a timeout, and so is a connection that is open for longer than
    --syn-timeout; it has another line when it ends,
  - if only one direction passes the interface, a connection that the other side
    has reset, or that was open before, stays open,
  - duplicates created by the network count as retransmissions.

  The table has room for 100,000 connections. If there are more, the oldest are
  forgotten, and their number is reported.

  --json and --csv add the time to the SYN-ACK and to the second FIN, the side
  that closed first, the only side that was seen (only_from), and the
  retransmissions of SYN and FIN. The docstring of
  lab.probes.duration.measure.lifetimes describes the fields. Times are in
  nanoseconds; unknown values are null in JSON and empty in CSV.
"""

_INTERVAL_S = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    live_output.add_device_arguments(parser)
    filters.add_arguments(
        parser, filters.CONNECTIONS, aliases={"client-port": ("--sport",), "server-port": ("--dport",)}
    )
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="print the remarks of every connection, such as the side that closed it",
    )
    parser.add_argument("--open", action="store_true", help="at the end, also list connections that are still open")
    parser.add_argument(
        "--syn-timeout",
        type=duration_ns,
        default=SYN_TIMEOUT_NS,
        metavar="TIME",
        help="time after its last SYN at which an attempt is a timeout (130s: TCP repeats a SYN after at most 120 s)",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="also append the lines to this file")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw a histogram of the durations (.png, .svg, .pdf)"
    )
    parser.add_argument(
        "--from",
        type=Path,
        dest="source",
        metavar="FILE",
        help="draw the durations of this file (from --output) and watch no interface",
    )
    live_output.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print connections that end until Ctrl-C or for `--seconds`; with `--from`, draw the durations of a file."""
    if args.plot is not None:
        require_drawable(args.plot)
    if args.source is not None:
        return _draw_from(args.source, args.plot)
    device = live_output.device_of(args)
    file = _file(args.output)
    program = Program.live("duration", defines_of([device]))
    ring = program.ring
    if ring is None:
        raise TypeError("bpf/duration.c defines no ring buffer")
    output, choice = Output(args), filters.chosen(args)
    gone: LabError | None = None
    with drain.ticks(program, _INTERVAL_S, args.seconds, [device], choice, output.account) as ticks:
        output.start()
        output.heading(head(output.width))
        from lab.probes.duration.text import Show
        from lab.probes.duration.tracker import Tracker

        show, table = Show(args, device.ifname, output, file), Tracker(args.syn_timeout)
        try:
            for _ in ticks:
                now_ns = time.monotonic_ns()
                show.rows(table.take(ring.drain(), now_ns))
                show.forgotten(table.forgotten)
        except LabError as error:  # the interface was deleted; print the rows that it has reported before
            gone = error
        except BrokenPipeError:  # the reader of the output has gone, as `head` does: what was seen is drawn
            show.draw()
            raise
        show.end(*table.finish(time.monotonic_ns()))
    output.end()
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
        raise LabError("--from needs a picture to draw into: give --plot graph.png as well")
    from lab.probes.duration.statistics_file import Histogram, read_durations

    histogram = Histogram()
    histogram.add(read_durations(source))
    histogram.draw(plot)
    return 0
