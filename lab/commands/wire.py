"""Build two hosts and a wire between them, for use by hand, until Ctrl-C; then tell what the wire did to frames.

Programs run on the hosts by `lab serve --netns NAME` and `lab connect --netns NAME`, or by `ip netns exec NAME`.
"""

import argparse
import threading
from contextlib import suppress

import numpy as np
from tabulate import tabulate

from lab.network.conditions import Conditions
from lab.network.frame_log import Direction, Fate, Mark, WireLog, hold_ns
from lab.network.relay import Relay
from lab.network.topology import topology
from lab.units import duration_ns, duration_text, fraction, rate_bps

EXAMPLES = """\
example: a long and lossy way there, a short one back
  lab wire --delay 50ms --loss 1% --to server
"""
_FATES = ((Fate.LOST, "lost"), (Fate.OVERFLOWED, "overflowed"), (Fate.REFUSED, "refused"))
_MARKS = ((Mark.COPY, "copied"), (Mark.HURRIED, "reordered"), (Mark.CORRUPTED, "corrupted"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--delay", type=duration_ns, default=0, metavar="TIME", help="hold each frame for so long")
    parser.add_argument("--jitter", type=duration_ns, default=0, metavar="TIME", help="or up to so much more or less")
    for name, what in (
        ("loss", "drop this part of the frames: 1%% or 0.01"),
        ("duplicate", "send this part twice"),
        ("reorder", "let this part overtake those that wait"),
        ("corrupt", "flip a bit in this part"),
    ):
        parser.add_argument(f"--{name}", type=fraction, default=0.0, metavar="PART", help=what)
    parser.add_argument("--rate", type=rate_bps, default=0, help="carry no more than, for example, 10mbit in a second")
    parser.add_argument("--limit", type=int, default=Conditions.limit, help="frames that may wait (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="what is left to chance happens again with the same seed")
    parser.add_argument("--drop", type=int, nargs="+", default=[], metavar="N", help="drop the Nth frame, from 1")
    parser.add_argument("--to", choices=["server", "client"], help="only for frames to this host (default: both)")
    parser.add_argument("--seconds", type=float, help="end after so long (default: with Ctrl-C)")


def run(args: argparse.Namespace) -> int:
    """Build, wait, tell."""
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
    link = Relay()
    with topology(link) as net:
        net.conditions(perfect if args.to == "client" else conditions, perfect if args.to == "server" else conditions)
        for host in (net.client, net.server):
            print(f"{host.name}  {host.ipv4}  {host.ipv6}")
        print("the wire carries; Ctrl-C ends it", flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait(args.seconds)
        log = link.log(lossy=True)
    show(log)
    log.require_whole()
    return 0


def show(log: WireLog) -> None:
    """Print what became of the frames of each direction."""
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
    print(tabulate(rows, headers="keys"))
