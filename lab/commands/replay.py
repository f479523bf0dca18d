"""Send the frames of a capture (pcap, pcapng) again, with the gaps that they had.

Without --netns and --interface it is a network of the lab's own: the frames leave the client's host for the server's, over a wire
that carries whatever comes, and probes can watch both hosts. With them, frames leave an interface that is there already. All
frames leave there, whichever way they went when they were captured, and not a byte of them is changed.

A gap counts from when the first frame was sent, so a frame that is late does not delay the next. --json tells of each frame:

frame                    its number in the file, from 1
before_ns, after_ns      stamps before and after it was sent, on the clock of all probes (CLOCK_MONOTONIC)
due_ns                   when it should have been sent
length, captured_length  its bytes when it was captured, and those of them that are in the file, and have been sent
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
from lab.ebpf.recorder import record
from lab.errors import LabError
from lab.linux.grace_period import await_backlogs
from lab.live.output import Output
from lab.network.relay import Relay
from lab.network.topology import ETHERNET_MTU, Topology, topology
from lab.observation import Observed
from lab.signals import stopping
from lab.traffic.crafted.pcap_reader import captured
from lab.traffic.crafted.replay import Replayed, replay
from lab.traffic.crafted.send import Sender
from lab.traffic.crafted.unusual_frames import lacks_tag
from lab.units import above_zero, bytes_text, duration_text

EXAMPLES = """\
examples:
  lab replay talk.pcap --probes duration flows            what do they say of it?
  lab replay --netns web -i eth0 --speed 10 day.pcap.gz   from there, ten times as fast
"""
_INTERRUPTED = 130
_LIMIT_S = 20.0
_LARGEST_MTU = 65535
_EVERYTHING = {"packets": ("PORT=0",)}  # what a probe must be told to show all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("file", type=Path, metavar="FILE", help="pcap or pcapng, of Ethernet frames; may be gzipped")
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument("--speed", type=_speed, default=1.0, metavar="N", help="N times as fast as it was captured")
    pace.add_argument("--at-once", action="store_const", dest="speed", const=None, help="one right after the other")
    parser.add_argument("--netns", metavar="NAME", help="send inside this named network namespace")
    parser.add_argument("-i", "--interface", metavar="NAME", help="send from this interface (default: the only one)")
    parser.add_argument(
        "--mtu", type=_mtu, default=ETHERNET_MTU, metavar="BYTES", help="of the lab's own network (%(default)s)"
    )
    parser.add_argument(
        "--probes", nargs="+", choices=probes.names(), help="attach these, and show what they tell at the end"
    )
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each frame, as it is sent")


def run(args: argparse.Namespace) -> int:
    """Replay, until the file ends or at Ctrl-C; what was sent is told also when something goes wrong."""
    if args.netns is not None or args.interface is not None:
        if args.probes:
            raise LabError("--probes watch the lab's own network only: leave them out, and run the live tools beside")
        return _replay(args, Device.find(args.interface, args.netns), Progress())
    if not args.file.exists() or args.file.is_file():  # and no pipe, which can be read only once
        next(captured(args.file), None)  # before anything is built
    # Not by a bridge: it would learn that both ends of a captured conversation are on the client's side, and keep them there.
    link = Relay()
    with topology(link, mtu=args.mtu) as net:
        return _watched(args, net, link) if args.probes else _replay(args, net.client.device, Progress())


@dataclass
class Progress:
    """What has been sent so far."""

    frames: int = 0
    size: int = 0
    carried: int = 0  # those that no kernel on the way drops
    cut: int = 0  # those of which the file has less than there was
    first_ns: int = 0
    last_ns: int = 0
    latest_ns: int = 0  # how late a frame has been at most

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
        """Tell in a sentence."""
        text = f"{self.frames} frames sent, {bytes_text(self.size)}, in {duration_text(self.last_ns - self.first_ns)}"
        if paced and self.frames:
            text += f", none later than {duration_text(self.latest_ns)}"
        if self.cut:
            text += f"; of {self.cut} the file has the beginning only, and that was sent"
        return text


def _replay(args: argparse.Namespace, device: Device, progress: Progress) -> int:
    """Send the file's frames from an interface, and say how it went, whatever happens; returns the exit status."""
    note = Output(args).note
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
    """Replay with probes attached, and print what each has to tell."""
    progress = Progress()
    programs = {name: Program.load(name, _EVERYTHING.get(name, ())) for name in args.probes}
    status, failure = 0, None
    with record(programs=programs, devices=net.devices, lossy=True) as recorder:
        try:
            status = _replay(args, net.client.device, progress)
        except LabError as error:  # what was seen until then is told first
            failure = error
        _await_arrival(link, progress.carried)
    observed = Observed(net.inodes, recorder.recording, end_ns=time.monotonic_ns())
    for name in args.probes:
        print("\n".join([f"\nlab {name}", *probes.table(name, observed)]))
        if missing := observed.recording.missing(name):
            print(f"{missing} events are missing: this is not complete")
    if failure:
        raise failure
    return status


def _await_arrival(link: Relay, frames: int) -> None:
    """Wait until the wire has carried so many frames, and the hosts are done with them."""
    deadline = time.monotonic() + _LIMIT_S
    while len(link.log(lossy=True).frames) < frames:
        if time.monotonic() > deadline:
            raise LabError(f"the wire did not carry {frames} frames within {_LIMIT_S:g} s: send them more slowly")
        time.sleep(0.001)
    await_backlogs()


def as_dict(sent: Replayed) -> dict[str, object]:
    """One frame under the names that `--json` uses."""
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
    return above_zero(text, "no speed: give a number above 0, 1 is as captured")


def _mtu(text: str) -> int:
    if not text.isdecimal() or not ETHERNET_MTU <= int(text) <= _LARGEST_MTU:
        raise argparse.ArgumentTypeError(f"`{text}` is no MTU: give a number from {ETHERNET_MTU} to {_LARGEST_MTU}")
    return int(text)
