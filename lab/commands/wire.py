"""Build a network, by default two hosts and a wire between them, until Ctrl-C.

Prints the namespaces of the hosts and routers. Start programs there with
`lab serve --netns NAME`, `lab connect --netns NAME` or `ip netns exec NAME`.
At the end it prints what the wire did to the frames, if there is a wire.
"""

import argparse
import threading
from collections.abc import Iterator
from contextlib import suppress

import numpy as np

from lab.network.conditions import Conditions
from lab.network.description import NETWORKS
from lab.network.frame_log import Direction, Fate, Mark, WireLog, hold_ns
from lab.network.relay import Relay
from lab.network.topology import Topology, topology
from lab.output.text import tabulated
from lab.units import duration_ns, duration_text, fraction, rate_bps

EXAMPLES = """\
examples:
  lab wire --delay 50ms --loss 1% --to server   delay and loss to the server, none back
  lab wire --network nat                        a router that translates addresses
"""
_FATES = ((Fate.LOST, "lost"), (Fate.OVERFLOWED, "overflowed"), (Fate.REFUSED, "refused"))
_MARKS = ((Mark.COPY, "copied"), (Mark.HURRIED, "reordered"), (Mark.CORRUPTED, "corrupted"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--network", choices=NETWORKS, default="wire", help="the network; see docs/network.md")
    parser.add_argument("--delay", type=duration_ns, default=0, metavar="TIME", help="delay of each frame")
    parser.add_argument(
        "--jitter", type=duration_ns, default=0, metavar="TIME", help="largest deviation from the delay"
    )
    for name, what in (
        ("loss", "drop this fraction of the frames: 1%% or 0.01"),
        ("duplicate", "send this fraction twice"),
        ("reorder", "send this fraction at once, before waiting frames"),
        ("corrupt", "flip a bit in this fraction"),
    ):
        parser.add_argument(f"--{name}", type=fraction, default=0.0, metavar="PART", help=what)
    parser.add_argument("--rate", type=rate_bps, default=0, help="largest rate, for example 10mbit")
    parser.add_argument(
        "--limit", type=int, default=Conditions.limit, help="largest number of frames in the queue (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices (%(default)s)")
    parser.add_argument(
        "--drop", type=int, nargs="+", default=[], metavar="N", help="drop these frames, counted from 1"
    )
    parser.add_argument("--to", choices=["server", "client"], help="apply only to frames to this host (default: both)")
    parser.add_argument("--seconds", type=float, help="stop after this time (default: at Ctrl-C)")


def run(args: argparse.Namespace) -> int:
    """Build the network, wait for the end, and print the totals of the wire."""
    conditions = Conditions(
        delay_ns=args.delay,
        jitter_ns=args.jitter,
        loss=args.loss,
        duplicate=args.duplicate,
        reorder=args.reorder,
        corrupt=args.corrupt,
        rate_bps=args.rate,
        limit=args.limit,
        seed=args.seed,
        drop=tuple(args.drop),
    )
    perfect = Conditions()
    link = Relay() if NETWORKS[args.network].has_wire else None
    with topology(link, network=args.network) as net:
        net.conditions(perfect if args.to == "client" else conditions, perfect if args.to == "server" else conditions)
        for name, ipv4, ipv6 in _addresses(net):
            print(f"{name}  {ipv4}  {ipv6}")
        print("the network is up; stop it with Ctrl-C", flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait(args.seconds)
        log = link.log(lossy=True) if link else None
    if log:
        show(log)
        log.require_whole()
    return 0


def _addresses(net: Topology) -> Iterator[tuple[str, str, str]]:
    """Yield the namespace and the addresses of each interface of hosts and routers."""
    for name, port in net.description.ports.items():
        yield net.interfaces[name].netns or "", port.ipv4, port.ipv6


def show(log: WireLog) -> None:
    """Print a table: for each direction, the fates, marks and hold times of its frames."""
    rows = []
    for direction in Direction:
        frames = log.going(direction)
        forwarded = frames[frames["fate"] == Fate.FORWARDED]
        held = hold_ns(forwarded[forwarded["marks"] & Mark.HURRIED == 0])[0]
        row = {"": direction.name.lower().replace("_", " the "), "forwarded": len(forwarded)}
        row |= {name: np.count_nonzero(frames["fate"] == fate) for fate, name in _FATES}
        row |= {name: np.count_nonzero(frames["marks"] & mark) for mark, name in _MARKS}
        row["held, median"] = duration_text(int(np.median(held))) if len(held) else "-"
        row["longest"] = duration_text(int(held.max())) if len(held) else "-"
        rows.append(row)
    print(tabulated([list(row.values()) for row in rows], list(rows[0])))
