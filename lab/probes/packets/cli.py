"""Packets with a port, each with the time at which it reached the interface.

src_ip, src_port    as the packet has them, and so dst_ip and dst_port; - for what it does not have
timestamp(us)       when the frame came to XDP, before the network stack: microseconds since boot on the clock of all probes
                    (CLOCK_MONOTONIC), with --wall microseconds since 1970 (CLOCK_REALTIME)

--json and --csv have more:

time_ns, clock      the same in nanoseconds, and the clock's name
ethertype           the protocol behind the Ethernet header and its VLAN tags
vlan, inner_vlan    ids of the tags; a tag that the device has taken off and carries beside the frame cannot be seen by XDP
flags, seq, ack     as in TCP's header
payload_length      bytes behind the TCP or UDP header, without padding
frame_length        bytes from the Ethernet header on, as XDP has them: frames of a sender on the same machine, and frames that the
                    device has joined, are up to 64 KB and more long and have not been cut into segments
problem             why a packet has no ports

XDP sees what the interface receives and nothing that it sends. A later fragment has no ports, and neither has what is encrypted or
cut off: such packets are counted, which is told at the end, and --all shows them, with the reason.

Native XDP (--mode) runs in the driver, generic XDP behind it; auto is generic on a veth and on loopback, elsewhere native where the
driver has it. Native XDP on a veth has its peer cut every frame to the MTU, which costs half of TCP's throughput.
"""

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from lab.arrays import plain
from lab.clock import wall_offset_ns
from lab.ebpf.interface import MODES, Device
from lab.ebpf.program import Program
from lab.errors import LabError
from lab.live import drain
from lab.live import output as live_output
from lab.live.output import Output
from lab.probes.packets.pcapng_writer import Capture
from lab.traffic.demo.conversation import PORT
from lab.units import port

if TYPE_CHECKING:
    from lab.arrays import Events

EXAMPLES = """\
examples:
  lab packets                          packets from and to port 9999 on the only interface
  lab packets -i lo --port 80 --json   those of port 80 on loopback, as JSON Lines
  lab packets --all --pcap all.pcapng  everything that comes in, also to a file for tshark
"""

_SNAPLEN = 256  # bytes of each frame that go into the capture


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("-p", "--port", type=port, default=PORT, help="source or destination port (%(default)s)")
    what.add_argument("-a", "--all", action="store_true", help="every frame, also those without ports")
    parser.add_argument("--mode", choices=MODES, default="auto", help="how XDP is attached (%(default)s)")
    parser.add_argument("--wall", action="store_true", help="wall-clock time: microseconds since 1970")
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
    device = Device.find(args.interface, args.netns, args.mode)
    defines = [f"PORT={0 if args.all else args.port}"]
    output = Output(args)
    with ExitStack() as open_files:
        capture = open_files.enter_context(Capture(args.pcap, device.ifname, _SNAPLEN)) if args.pcap else None
        if capture:
            defines.append(f"SNAPLEN={_SNAPLEN}")
        program = Program.load("packets", tuple(defines))
        try:
            with drain.events_by_time(program, args.seconds, [device]) as batches:
                output.start()
                from lab.probes.packets.text import as_dict, line

                for batch in batches:
                    offset_ns = wall_offset_ns()
                    if capture and not _captured(capture, batch, offset_ns, output):
                        capture = None
                    for row in plain(batch):
                        output.row(as_dict(row, offset_ns if args.wall else None), line)
        finally:
            from lab.probes.packets.text import unreadable

            output.note(unreadable(program.take_totals()))
    return 0


def _captured(capture: Capture, batch: "Events", offset_ns: int, output: Output) -> bool:
    """Write frames to the capture; False when there is no room for more, which must not end the printing."""
    try:
        for row in batch:
            length = int(row["frame_length"])
            capture.frame(int(row["time_ns"]) + offset_ns, row["bytes"].tobytes()[:length], length)
    except LabError as error:
        output.note(f"{error}; what follows is printed only")
        return False
    return True
