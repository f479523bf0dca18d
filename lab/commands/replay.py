"""Replay the frames of a capture (pcap, pcapng).

By default the lab builds a network and sends the frames from the client's host
to the server's; --probes attaches to both hosts. With --netns or --interface,
the frames leave an existing interface. Frames and gaps are as captured.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from lab import probes
from lab.clock import CLOCK
from lab.ebpf.interface import Device
from lab.ebpf.program import Program
from lab.errors import LabError
from lab.linux.grace_period import await_backlogs
from lab.live.account import Account
from lab.network.relay import Relay
from lab.network.topology import ETHERNET_MTU, Topology, topology
from lab.observation import Observed
from lab.recording.recorder import record
from lab.signals import stopping
from lab.traffic.crafted.pcap_reader import captured
from lab.traffic.crafted.replay import Replayed, replay
from lab.traffic.crafted.send import Sender
from lab.traffic.crafted.unusual_frames import lacks_tag
from lab.units import above_zero, bytes_text, duration_text

EXAMPLES = """\
examples:
  lab replay talk.pcap --probes duration flows     show the tables of two probes
  lab replay --netns web -i eth0 --speed 10 day.pcap.gz
                                                   from eth0, ten times as fast
"""
DETAILS = """\
details:
  All frames leave the same interface, whatever their direction was.
  Each frame is due at a fixed time after the first, so a late frame does not
  delay the next.
  --json prints for each frame:
    frame                number in the file, from 1
    before_ns, after_ns  time before and after the send call, on CLOCK_MONOTONIC
    due_ns               time at which the frame was due
    length               bytes of the frame on the network where it was captured
    captured_length      bytes of the frame in the file; these are sent
"""
_INTERRUPTED = 130
_LIMIT_S = 20.0
_LARGEST_MTU = 65535
_EVERYTHING = {"packets": ("PORT=0",)}  # build options with which a probe reports all traffic


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("file", type=Path, metavar="FILE", help="pcap or pcapng with Ethernet frames; may be gzipped")
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument("--speed", type=_speed, default=1.0, metavar="N", help="N times as fast as captured (default: 1)")
    pace.add_argument("--at-once", action="store_const", dest="speed", const=None, help="send without gaps")
    parser.add_argument("--netns", metavar="NAME", help="send in this network namespace")
    parser.add_argument("-i", "--interface", metavar="NAME", help="send from this interface (default: the only one)")
    parser.add_argument(
        "--mtu", type=_mtu, default=ETHERNET_MTU, metavar="BYTES", help="MTU of the lab's own network (%(default)s)"
    )
    parser.add_argument(
        "--probes",
        nargs="+",
        choices=probes.names(),
        metavar="PROBE",
        help=f"attach these probes and print their tables at the end: {', '.join(probes.names())}",
    )
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each frame sent")


def run(args: argparse.Namespace) -> int:
    """Replay until the file ends or Ctrl-C; report the frames sent even after an error."""
    if args.netns is not None or args.interface is not None:
        if args.probes:
            raise LabError(
                "--probes work in the lab's own network only: leave them out and run the live tools in another terminal"
            )
        device = Device.find(args.interface, args.netns)
        if not device.ethernet:
            raise LabError(f"`{device.ifname}` carries no Ethernet frames: give another interface")
        return _replay(args, device, Progress())
    if not args.file.exists() or args.file.is_file():  # a pipe could not be read a second time
        next(captured(args.file), None)  # report a bad file before the network is built
    # A bridge would learn the addresses of both ends on the client's side and stop forwarding; a relay does not.
    link = Relay()
    with topology(link, mtu=args.mtu) as net:
        return _watched(args, net, link) if args.probes else _replay(args, net.client.device, Progress())


@dataclass
class Progress:
    """Counters of the frames sent so far."""

    frames: int = 0
    size: int = 0
    carried: int = 0  # frames that no kernel on the way drops
    cut: int = 0  # frames that are truncated in the file
    first_ns: int = 0
    last_ns: int = 0
    latest_ns: int = 0  # largest delay of a frame after its due time

    def add(self, sent: Replayed) -> None:
        """Count a frame."""
        data = sent.frame.data
        self.first_ns, self.last_ns = self.first_ns or sent.before_ns, sent.after_ns
        self.latest_ns = max(self.latest_ns, sent.before_ns - sent.due_ns)
        self.frames += 1
        self.size += len(data)
        self.carried += not lacks_tag(data)
        self.cut += len(data) < sent.frame.length

    def summary(self, *, paced: bool) -> str:
        """Return a sentence: frames, bytes, time, and the largest delay if the frames were `paced`."""
        text = f"{self.frames} frames sent, {bytes_text(self.size)}, in {duration_text(self.last_ns - self.first_ns)}"
        if paced and self.frames:
            text += f", at most {duration_text(self.latest_ns)} late"
        if self.cut:
            text += f"; {self.cut} of them truncated, as in the file"
        return text


def _replay(args: argparse.Namespace, device: Device, progress: Progress) -> int:
    """Send the file's frames from an interface; print a summary in any case. Returns the exit status."""
    note = Account().note
    with Sender(device.netns, device.ifname) as sender, stopping() as stop:
        note(f"sending {args.file} from {device.ifname}" + (f" in {device.netns}" if device.netns else ""))

        def pause(seconds: float) -> bool:
            if seconds:
                sys.stdout.flush()
            return stop.wait(seconds)

        try:
            for sent in replay(args.file, sender, speed=args.speed, pause=pause):
                progress.add(sent)
                if args.json:
                    print(json.dumps(as_dict(sent)))
        finally:
            sys.stdout.flush()
            stopped = stop.wait(0)
            note("stopped: " * stopped + progress.summary(paced=args.speed is not None))
    return _INTERRUPTED if stopped else 0


def _watched(args: argparse.Namespace, net: Topology, link: Relay) -> int:
    """Replay with probes attached, and print the table of each."""
    progress = Progress()
    programs = {name: Program.load(name, _EVERYTHING.get(name, ())) for name in args.probes}
    status, failure = 0, None
    with record(programs=programs, devices=net.devices, lossy=True) as recorder:
        try:
            status = _replay(args, net.client.device, progress)
        except LabError as error:  # raised after the tables are printed
            failure = error
        _await_arrival(link, progress.carried)
    observed = Observed(net.inodes, recorder.recording, end_ns=time.monotonic_ns())
    for name in args.probes:
        print("\n".join([f"\nlab {name}", *probes.table(name, observed)]))
        if missing := observed.recording.missing(name):
            print(f"{missing} events are missing: the table is incomplete")
    if failure:
        raise failure
    return status


def _await_arrival(link: Relay, frames: int) -> None:
    """Wait until the wire has carried this many frames and the hosts have processed them."""
    deadline = time.monotonic() + _LIMIT_S
    while len(link.log(lossy=True).frames) < frames:
        if time.monotonic() > deadline:
            raise LabError(
                f"the wire did not carry {frames} frames within {_LIMIT_S:g} s: send them more slowly (--speed)"
            )
        time.sleep(0.001)
    await_backlogs()


def as_dict(sent: Replayed) -> dict[str, object]:
    """Return a frame as `--json` prints it."""
    return {
        "frame": sent.number,
        "before_ns": sent.before_ns,
        "after_ns": sent.after_ns,
        "due_ns": sent.due_ns,
        "clock": CLOCK,
        "length": sent.frame.length,
        "captured_length": len(sent.frame.data),
    }


def _speed(text: str) -> float:
    return above_zero(text, "no speed: give a number above 0 (1: as captured)")


def _mtu(text: str) -> int:
    if not text.isdecimal() or not ETHERNET_MTU <= int(text) <= _LARGEST_MTU:
        raise argparse.ArgumentTypeError(f"`{text}` is no MTU: give a number from {ETHERNET_MTU} to {_LARGEST_MTU}")
    return int(text)
