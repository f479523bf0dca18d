"""Run the demo client by hand and print each connection's timeline.

The server must be given the same conversation.
"""

import argparse

from lab.errors import LabError
from lab.traffic.demo import client, command
from lab.traffic.demo.conversation import Conversation
from lab.units import port

EXAMPLES = """\
example: ten connections at once, each held open for 100 ms
  lab connect --connections 10 --hold 100ms 127.0.0.1
"""

_HIGHEST_RATE = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("address", help="the server's address or name")
    parser.add_argument("--connections", type=int, default=1, help="how many connections (%(default)s)")
    parser.add_argument("--concurrency", type=int, help="how many of them at a time (default: all)")
    parser.add_argument(
        "--rate", type=float, metavar="N", help="begin N connections a second (default: as fast as can be)"
    )
    parser.add_argument("--source-port", type=_source_port, default=0, help="bind this local port before connecting")
    command.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Connect."""
    if args.connections < 1 or (args.concurrency or 1) < 1:
        raise LabError("a client makes at least one connection: give --connections and --concurrency 1 or more")
    if args.rate is not None and not 0 < args.rate <= _HIGHEST_RATE:
        raise LabError(
            f"connections cannot begin at a rate of {args.rate:g}: give --rate above 0, at most {_HIGHEST_RATE}"
        )
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
    return 0


def _source_port(text: str) -> int:
    return 0 if text == "0" else port(text)
