"""Print the received packets of a port, each with its time of arrival.

src_ip, src_port  source of the packet; - if it has none
dst_ip, dst_port  destination of the packet; - if it has none
timestamp(us)     arrival at XDP, before the network stack: microseconds since
                  boot (CLOCK_MONOTONIC), or since 1970 with --wall

--json and --csv also have:

ethertype         protocol after the Ethernet header and the VLAN tags
vlan, inner_vlan  ids of the VLAN tags
flags, seq, ack   fields of the TCP header
payload_length    bytes after the TCP or UDP header, without padding
frame_length      bytes of the frame as XDP receives it
problem           why the packet has no ports
"""

import argparse
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lab.clock import unix_ns
from lab.ebpf.interface import MODES, defines_of
from lab.ebpf.program import Program
from lab.errors import LabError
from lab.live import drain, filters
from lab.live import output as live_output
from lab.live.output import Output
from lab.probes.packets.pcapng_writer import Capture
from lab.tcp import DEMO_PORT

if TYPE_CHECKING:
    from lab.arrays import Events

EXAMPLES = """\
examples:
  lab packets                          packets of port 9999 on the only interface
  lab packets -i lo --port 80 --json   packets of port 80 on loopback, as JSON Lines
  lab packets --all --pcap all.pcapng  every frame, also to a file for tshark
"""

DETAILS = """\
details:
  XDP receives the frames that arrive at the interface, and no frame that it
  sends. Copies of multicast and broadcast datagrams that the host sends itself
  are not printed.

  Later fragments, encrypted packets and packets with cut-off headers have no
  readable ports. They are counted, and the counts are printed at the end.
  --all prints these packets too, with the reason.

  XDP cannot read a VLAN tag that the device has removed from the frame and
  stored in its metadata. TC can (--mode tc).

  On interfaces without Ethernet headers, such as tun, packets are observed at
  TC ingress. frame_length is then the length of the IP packet.

  XDP receives super-frames whole: frames of a sender on the same machine, and
  frames that the device has joined, can be longer than 64 KB.


  Native XDP (--mode) runs in the driver, generic XDP after it. `auto` is generic
  on veth, bond and loopback devices; on other devices it is native if the driver
  supports it. With native XDP on a veth device, the peer cuts every frame to the
  MTU, which halves TCP throughput. `tc` is TC ingress, some microseconds later;
  it works next to an XDP program of another tool, and sees only what that passes
  on.
"""

_TC = "tc"  # --mode: TC instead of XDP
_SNAPLEN = 256  # bytes of each frame that go into the capture


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    filters.add_arguments(parser, filters.PACKETS, {"port": ("-p",)}, default=f"port {DEMO_PORT}")
    parser.add_argument("-a", "--all", action="store_true", help="every frame, also frames without ports")
    parser.add_argument(
        "--mode", choices=(*MODES, _TC), default="auto", help="how XDP is attached, or TC (%(default)s)"
    )
    parser.add_argument("--wall", action="store_true", help="print wall-clock time: microseconds since 1970")
    parser.add_argument(
        "--pcap",
        type=Path,
        metavar="FILE",
        help=f"also write the frames, up to {_SNAPLEN} bytes of each, as pcapng with wall-clock time",
    )
    live_output.add_device_arguments(parser)
    live_output.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print packets until Ctrl-C, or for `--seconds`."""
    device = live_output.device_of(args, "auto" if args.mode == _TC else args.mode)
    if not device.ethernet and args.mode in ("generic", "native"):
        raise LabError(f"`{device.ifname}` has no Ethernet headers, it is observed at TC: leave --mode out")
    choice = filters.chosen(args)
    if args.all and args.port:
        raise LabError("--all shows the packets of all ports: leave out --port, or leave out --all")
    defines = [*defines_of([device])]
    if args.all or args.address or args.version:
        defines.append("PORT=0")
    elif not args.port:
        live_output.tell_port(", --all every packet")
    if args.mode == _TC:
        defines.append("AT_TC=1")
    output = Output(args)
    with ExitStack() as open_files:
        capture = None
        if args.pcap:
            capture = open_files.enter_context(Capture(args.pcap, device.ifname, _SNAPLEN, ethernet=device.ethernet))
            defines.append(f"SNAPLEN={_SNAPLEN}")
        program = Program.live("packets", tuple(defines))
        try:
            with drain.events(program, args.seconds, [device], choice, output.account) as batches:
                output.start()
                from lab.probes.packets.text import as_dicts, line

                line_of = partial(line, wall=args.wall, columns=output.width)
                for batch in batches:
                    if capture and not _written(capture, batch, output):
                        capture = None
                    output.rows(batch, as_dicts, line_of)
        finally:
            from lab.probes.packets.text import unreadable

            output.note(unreadable(program.take_totals()))
            output.end()
    return 0


def _written(capture: Capture, batch: "Events", output: Output) -> bool:
    """Write frames to the capture; return False if it cannot be written. Printing goes on without it."""
    try:
        for row in batch:
            length = int(row["frame_length"])
            capture.frame(unix_ns(int(row["time_ns"])), row["bytes"].tobytes()[:length], length)
    except LabError as error:
        output.note(f"{error}; packets from here on are printed only")
        return False
    return True
