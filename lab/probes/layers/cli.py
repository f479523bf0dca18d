"""Where the time of each request went, layer by layer, from the client's write() to its read(), on both hosts.

A request is what a client writes after it has read; what it then reads is the reply. Each is two lines of the table, and the layers
are those that its last byte passed, one after the other, so that they add up to TOTAL, exactly:

APP        the application. Request: client, from its first write() to its last; reply: server, from the return of the read() that
           returned the request's last byte, to entering the write() of the reply's last byte
WRITE      sender: the system call, TCP and IP, up to TC egress; also waiting for the peer's window, the congestion window, Nagle
RESEND     sender: from the first transmission to the one that arrived; 0 when none was lost
QDISC      sender: TC egress to the driver: the queueing discipline
WIRE       driver to driver: also native XDP, and the receiver's backlog before its stack gets the packet
RECEIVE    receiver: from the driver to TC ingress: generic XDP, packet sockets
IP         receiver: TC ingress to TCP: routing, netfilter
TCP        receiver: until the socket tells its reader; also waiting for segments in between that are missing
WAKE-UP    receiver: until a reader that slept runs again: in its read(), up to copying, or in poll, select or epoll_wait before
QUEUE      receiver: data is there, and the application has not come for it yet
READ       receiver: copying, up to the return of the read() that returned the last byte
ELSEWHERE  what nobody watched: without --peer-netns the other host, and the wire
TOTAL      from entering the client's first write() to the return of its last read(), or what was seen of that

--json and --csv have the same in nanoseconds, with `request_` and `reply_` before each layer's name, and how often the last byte was
sent; - and null are layers that nobody watched. Times are on CLOCK_MONOTONIC, so both hosts are on this machine.

--packets shows each segment instead, a second after it was sent: its own way, what became of it (delivered; duplicate: had come
before; not accepted: came, and never reached TCP; lost; not seen: nobody watched), and what the read() returned when that was more.

A reply is over when the client writes again, has closed, or has read nothing for a second. Transmissions of the same millisecond
cannot be told apart: the later one counts. A thread's first wait in poll, select or epoll_wait is not seen, but as QUEUE.
Not seen: requests whose reply begins before they were read (pipelining; counted), calls of io_uring, sendfile(), splice(),
sendmmsg(), recvmmsg() and 32-bit programs, and what a packet with IPv6 extension headers does at the drivers.
"""

import argparse
import ipaddress
from pathlib import Path

from lab.ebpf.interface import Device
from lab.ebpf.program import Program
from lab.errors import LabError
from lab.live import output as live_output
from lab.live.collector import collected
from lab.live.output import Output
from lab.pictures import require_drawable
from lab.traffic.demo.conversation import PORT
from lab.units import port

EXAMPLES = """\
examples:
  lab layers --netns client --peer-netns server   requests to port 9999 of a client and a server on this machine
  lab layers -P 80 -i eth0                        what this host has to do with them; the rest is elsewhere
  lab layers -P 5432 -i lo --summary              percentiles of each layer, at the end
  lab layers --netns client --peer-netns server --perfetto trace.json --plot layers.png
  lab layers --recording results/latest/recording-1.npz --waterfall
"""

_INTERVAL_S = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("-P", "--port", type=port, default=PORT, help="the servers' port (%(default)s)")
    parser.add_argument("--peer-netns", metavar="NAME", help="the network namespace of the other host")
    parser.add_argument("--peer-interface", metavar="NAME", help="its interface (default: the only one beside lo)")
    parser.add_argument("--flow", metavar="ADDRESS[:PORT]", help="only requests of this client")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--packets", action="store_true", help="show segments instead of requests")
    what.add_argument("--summary", action="store_true", help="show percentiles only")
    parser.add_argument("--waterfall", action="store_true", help="at the end, show the request of the median time")
    parser.add_argument("--histogram", action="store_true", help="at the end, show a histogram of each layer")
    parser.add_argument("--perfetto", type=Path, metavar="FILE", help="write a trace for ui.perfetto.dev (JSON)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw waterfall and percentiles (.png, .svg, .pdf)")
    parser.add_argument("--recording", type=Path, metavar="FILE", help="read a saved recording; watch nothing")
    live_output.add_device_arguments(parser)
    live_output.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print requests until Ctrl-C, or for `--seconds`; or those of a recording."""
    if args.packets and (args.perfetto or args.plot or args.waterfall or args.histogram):
        raise LabError("--packets shows segments, and the rest is of requests: leave one of them out")
    if args.plot is not None:
        require_drawable(args.plot)
    if args.perfetto is not None:
        from lab.probes.layers.perfetto import require_writable

        require_writable(args.perfetto)
    flow = None if args.flow is None else _flow(args.flow)
    if args.recording is not None:
        _read(args, flow)
    else:
        _watch(args, flow)
    return 0


def _read(args: argparse.Namespace, flow: tuple[str, int] | None) -> None:
    from lab.probes.layers.output import Show
    from lab.probes.layers.requests import requests
    from lab.probes.layers.stages import Stages

    stages, output = Stages.load(args.recording), Output(args)
    show = Show(args, output, flow)
    output.start()
    show.rows(stages.packets() if args.packets else requests(stages, args.port).rows)
    show.end()


def _watch(args: argparse.Namespace, flow: tuple[str, int] | None) -> None:
    devices = [Device.find(args.interface, args.netns)]
    if args.peer_netns is not None:
        devices.append(Device.find(args.peer_interface, args.peer_netns))
    elif args.peer_interface is not None:
        raise LabError("--peer-interface is one of the other host's: give --peer-netns as well")
    inodes = tuple(device.inode for device in devices)
    output = Output(args)
    with collected(
        Program.load("layers", (f"PORT={args.port}",)), _INTERVAL_S, args.seconds, devices, inodes
    ) as batches:
        output.start()
        from lab.probes.layers.output import Show
        from lab.probes.layers.tracker import RequestTracker, SegmentTracker

        show = Show(args, output, flow)
        tracker = SegmentTracker(inodes) if args.packets else RequestTracker(args.port, inodes)
        for batch, complete_ns in batches:
            show.rows(tracker.rows(batch, complete_ns))
        show.rows(tracker.rows(batch[:0], complete_ns, final=True))
    output.note(tracker.end())
    show.end()


def _flow(text: str) -> tuple[str, int]:
    """Parse `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]:4711`; port 0 is any. Raises `LabError`."""
    address, _, number = text.rpartition(":") if text.count(":") == 1 or "]:" in text else (text, "", "0")
    try:
        return str(ipaddress.ip_address(address.strip("[]"))), int(number)
    except ValueError:
        raise LabError(f"`{text}` is no client: write it like 192.0.2.1:4711 or [2001:db8::1]:4711") from None
