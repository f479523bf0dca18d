"""Where the time of a request goes: each layer of both hosts, from write() to read().

Two lines for each request: the request, then its reply. Times are of the last
byte; all layers add up to TOTAL.

APP        request: client, first to last write(); reply: server, read to write
WRITE      sender: system call, TCP and IP, up to TC egress
RESEND     sender: from the first transmission to the one that arrived
QDISC      sender: queueing discipline, from TC egress to the driver
WIRE       from the driver of the sender to the driver of the receiver
RECEIVE    receiver: from the driver to TC ingress
IP         receiver: from TC ingress to TCP
TCP        receiver: until TCP reports the data to the reader
WAKE-UP    receiver: until a reader that slept for this data runs
QUEUE      receiver: until a busy reader asks for the data
READ       receiver: copying, up to the return of read()
ELSEWHERE  layers not observed: without --peer-netns, other host and wire
TOTAL      from the entry of the first write() to the return of the last read()
"""

import argparse
import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING

from lab.ebpf.interface import Device, defines_of
from lab.ebpf.program import Program
from lab.errors import LabError
from lab.live import filters
from lab.live import output as live_output
from lab.live.collector import collected
from lab.live.drain import ring_of
from lab.live.output import Output
from lab.output.file import require_writable
from lab.output.pictures import require_drawable
from lab.probes.layers.head import header
from lab.tcp import DEMO_PORT
from lab.units import count, duration_ns, interval_ns

if TYPE_CHECKING:
    from lab.arrays import Rows

EXAMPLES = """\
examples:
  lab layers --netns client --peer-netns server   both hosts, port 9999
  lab layers --port 80 443 -i eth0                the layers of this host only
  lab layers --port 80 --min 20ms --netns 4711    slow requests, in the container
                                                  of process 4711
  lab layers --port 80 --interval 10 --top 5      every 10 s the 5 slowest, and
                                                  percentiles by layer and peer
  lab layers --port 5432 -i lo --summary          percentiles only
  lab layers --netns client --peer-netns server --perfetto trace.json --plot layers.png
  lab layers --recording results/latest/recording-1.npz --waterfall
"""

DETAILS = """\
details:
  A request is the data that a client writes after it has read. The data that
  it reads next is the reply. A reply is complete when the client writes again,
  when both ends have closed, or when the server has sent nothing for --gap
  after the client had read all. Two numbers are those of one request if also
  the server had read all of it before it sent a byte of the reply. Otherwise
  the rows have other names:
    stream   the reply had a pause that was longer than the time to its first
             byte: TOTAL includes the pauses
    push     data of the server that follows a pause of --gap, or precedes the
             first request
    stretch  the server replied before it had read all: pipelining, HTTP/2, or
             the connection was so before. Only bytes and the times from first
             to last byte in each direction. HTTP/2 without TLS is known by its
             first bytes. In TLS it is known only when directions overlap. A
             handshake of TLS is a request.
  If a server reads several pipelined requests at once, they are one request.

  What a layer includes:
    APP      request: from the first write() of the client to its last;
             reply: from the return of the read() with the last byte of the
             request to the entry of the write() of the last byte of the reply
    WRITE    also waiting for the peer's window, the congestion window, Nagle
    RESEND   0 when the last byte was not lost. If an earlier segment was lost,
             the time is in WRITE (Nagle, a full window) or TCP
    WIRE     also native XDP, and the backlog of the receiver before its stack
             takes the packet
    RECEIVE  generic XDP, packet sockets
    IP       routing, netfilter
    TCP      also waiting for missing segments
    WAKE-UP  of a reader that slept in read() until this data came: up to the
             start of copying; in poll(), select() or epoll_wait() for this
             socket: up to its return
    QUEUE    of a reader that was busy, or slept for another socket or a timer
    TOTAL    only as far as it was observed

  On a terminal that is too narrow for the layers, a request is one line with
  its three slowest layers (--wide: all). With --min and --top the percentiles
  are still those of all requests. They are of the last 100,000 requests, and
  those of an interval are of its requests. If both ends of a connection have
  one of several --port, the server is the one with the lower port.

  --json and --csv print the same times in nanoseconds. `request_first_ns` to
  `reply_last_ns` are when the client, or the server if the client was not
  observed, started to write the byte or had read it. The names of the layers
  start with `request_` or `reply_`. `request_sent` and `reply_sent` are the
  numbers of transmissions of the last byte. Layers that were not observed are
  `-` in the table, null in JSON and empty in CSV. Times are on CLOCK_MONOTONIC,
  so both hosts have to be on this machine.

  --packets prints each segment instead, a second after it was sent: its times,
  its fate, and what the read() returned if that was more than the segment.
    delivered     TCP took the data, and no earlier segment had it
    duplicate     TCP had received the data before
    not accepted  arrived, and never reached TCP
    lost          did not arrive
    not seen      the receiver was not observed

  Not observed:
    - calls of io_uring, splice(), sendmmsg(), recvmmsg() and 32-bit programs:
      their bytes are known from the segments, and counted at the end
    - packets that a watched host forwards
    - calls on MPTCP sockets: each subflow is a connection of stretches
    - packets with IPv6 extension headers at the drivers
    - waits in an epoll instance inside another one (part of QUEUE)
  Both sides of an address translation (NAT) are one connection, unless the port
  of the server changes.
  Transmissions in the same millisecond cannot be distinguished (they have the
  same TCP timestamp): the later one counts.
"""

_INTERVAL_S = 0.2
_OF_REQUESTS = ("perfetto", "plot", "waterfall", "histogram", "min", "top", "interval")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    filters.add_arguments(parser, filters.PACKETS, {"port": ("-P",)}, default=f"port {DEMO_PORT}")
    parser.add_argument("--peer-netns", metavar="NAME", help="network namespace of the other host")
    parser.add_argument("--peer-interface", metavar="NAME", help="its interface (default: the only one besides lo)")
    parser.add_argument("--flow", metavar="ADDRESS[:PORT]", help="only requests of this client")
    parser.add_argument(
        "--gap", type=duration_ns, default=1_000_000_000, metavar="TIME", help="pause that ends a reply (1s)"
    )
    parser.add_argument(
        "--min", type=duration_ns, metavar="TIME", help="show only requests that took at least this long"
    )
    parser.add_argument("--top", type=count, metavar="N", help="show only the N slowest requests of each interval")
    parser.add_argument(
        "--interval", type=interval_ns, metavar="S", help="percentiles by layer and by peer every S seconds (--top: 10)"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--packets", action="store_true", help="show segments instead of requests")
    what.add_argument(
        "--summary", action="store_true", help="show percentiles only: after a second, every 10 seconds, at the end"
    )
    parser.add_argument(
        "--waterfall", action="store_const", const=True, help="at the end, show the request with the median time"
    )
    parser.add_argument(
        "--histogram", action="store_const", const=True, help="at the end, show a histogram of each layer"
    )
    parser.add_argument("--perfetto", type=Path, metavar="FILE", help="write a trace for ui.perfetto.dev (JSON)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw waterfall and percentiles (.png, .svg, .pdf)")
    parser.add_argument("--recording", type=Path, metavar="FILE", help="read a saved recording instead of observing")
    live_output.add_device_arguments(parser)
    live_output.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print requests until Ctrl-C, for `--seconds`, or from a recording."""
    if args.packets and any(getattr(args, name) is not None for name in _OF_REQUESTS):
        raise LabError(f"--packets shows no requests: leave it out, or leave out --{', --'.join(_OF_REQUESTS)}")
    if args.plot is not None:
        require_drawable(args.plot)
    if args.perfetto is not None:
        require_writable(args.perfetto)
    flow = None if args.flow is None else _flow(args.flow)
    if not args.port:
        live_output.tell_port()
        args.port = [DEMO_PORT]
    if args.recording is not None:
        _read(args, flow)
    else:
        _watch(args, flow)
    return 0


def _read(args: argparse.Namespace, flow: tuple[str, int] | None) -> None:
    from lab.probes.layers.output import Show
    from lab.probes.layers.requests import requests
    from lab.probes.layers.stages import Stages
    from lab.probes.layers.translations import Translations

    stages, output = Stages.load(args.recording), Output(args)
    stages = Stages(Translations(args.port).undo(stages.events))
    show = Show(args, output, filters.chosen(args), flow)
    output.start()
    show.points(stages.events)
    rows = show.keep(stages.packets() if args.packets else requests(stages, args.port, args.gap).every)
    with show.printing():
        _heading(args, output)
        show.lines(rows)
        show.report(0, final=True)
    show.end()


def _heading(args: argparse.Namespace, output: Output) -> None:
    """Print the head line, unless only percentiles are printed."""
    if not args.summary:
        output.heading(header(packets=args.packets, columns=output.width))


def _watch(args: argparse.Namespace, flow: tuple[str, int] | None) -> None:
    devices = [live_output.device_of(args)]
    if args.peer_netns is not None:
        devices.append(Device.find(args.peer_interface, args.peer_netns))
        if (devices[0].inode, devices[0].ifindex) == (devices[1].inode, devices[1].ifindex):
            raise LabError(
                f"--peer-netns and --peer-interface name the interface `{devices[0].ifname}` that is observed already: "
                "leave them out, or give those of the other host"
            )
    elif args.peer_interface is not None:
        raise LabError("--peer-interface is an interface of the other host: give --peer-netns as well")
    inodes = tuple(device.inode for device in devices)
    output, choice = Output(args), filters.chosen(args)._replace(netns=inodes)
    program = Program.live("layers", defines_of(devices))
    with collected(program, _INTERVAL_S, args.seconds, devices, choice, output.account) as batches:
        output.start()
        _heading(args, output)
        import numpy as np

        from lab.probes.layers.output import Show
        from lab.probes.layers.tracker import RequestTracker, SegmentTracker

        show = Show(args, output, choice, flow)
        tracker = SegmentTracker(args.port, inodes) if args.packets else RequestTracker(args.port, inodes, args.gap)
        complete_ns = 0

        def rest() -> "Rows":
            return tracker.rows(np.zeros(0, ring_of(program).dtype), complete_ns, final=True)

        with show.printing(rest):
            for batch, complete_ns in batches:
                show.points(batch[np.isin(batch["netns"], inodes)])
                show.rows(tracker.rows(batch, complete_ns))
                show.report(complete_ns)
        with show.printing():
            show.rows(rest())
            show.report(complete_ns, final=True)
    output.note(tracker.end())
    show.end()
    output.end()


def _flow(text: str) -> tuple[str, int]:
    """Return address and port of `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1` or `[2001:db8::1]:4711`; port 0 is any.

    Raises `LabError` if the text has another form.
    """
    address, _, number = text.rpartition(":") if text.count(":") == 1 or "]:" in text else (text, "", "0")
    try:
        return str(ipaddress.ip_address(address.strip("[]"))), int(number)
    except ValueError:
        raise LabError(f"`{text}` is no client: write it like 192.0.2.1:4711 or [2001:db8::1]:4711") from None
