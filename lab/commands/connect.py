"""Run the demo client and print each connection's timeline.

The server (lab serve) needs the same conversation options. Exit status: 1 if a
connection failed.
"""

import argparse
import sys

from lab.errors import LabError
from lab.traffic.demo import client, command
from lab.traffic.demo.conversation import Conversation
from lab.units import port

EXAMPLES = """\
example: open ten connections at once and hold each open for 100 ms
  lab connect --connections 10 --hold 100ms 127.0.0.1
"""

_HIGHEST_RATE = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("address", help="address or name of the server")
    parser.add_argument("--connections", type=int, default=1, help="number of connections (%(default)s)")
    parser.add_argument("--concurrency", type=int, help="number open at the same time (default: all)")
    parser.add_argument("--rate", type=float, metavar="N", help="open N connections per second (default: no limit)")
    parser.add_argument("--source-port", type=_source_port, default=0, help="local port to bind (default: any)")
    command.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Open the connections and print their timelines."""
    if args.connections < 1 or (args.concurrency or 1) < 1:
        raise LabError("the client needs at least one connection: give --connections and --concurrency 1 or more")
    if args.rate is not None and not 0 < args.rate <= _HIGHEST_RATE:
        raise LabError(f"the rate {args.rate:g} is out of range: give --rate above 0 and at most {_HIGHEST_RATE}")
    if args.pause and args.concurrency and args.concurrency < args.connections:
        raise LabError("--pause needs all connections at once: leave --concurrency out")
    command.prepare(args)
    timelines = client.run(
        (args.address, args.port),
        Conversation.from_arguments(args),
        connections=args.connections,
        concurrency=args.concurrency,
        rate=args.rate,
        source_port=args.source_port,
        pause=command.pause_for_all(args, args.connections),
    )
    command.show(args, timelines)
    failed = [timeline.opening.error for timeline in timelines if timeline.opening.error]
    if not failed or args.parent:  # the lab itself reads the errors from the timelines
        return 0
    errors = ", ".join(sorted(set(failed)))
    print(f"lab: {len(failed)} of {len(timelines)} connections failed: {errors}", file=sys.stderr)
    return 1


def _source_port(text: str) -> int:
    return 0 if text == "0" else port(text)
