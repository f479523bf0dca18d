"""Run the demo server and print each connection's timeline.

Serves clients in parallel, until Ctrl-C or until --connections have ended.
"""

import argparse
import signal
from types import FrameType

from lab.errors import LabError
from lab.traffic.demo import command
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.server import Server

EXAMPLES = """\
example: reply after 20 ms, on IPv4 and IPv6
  lab serve --before-reply 20ms
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "--address", default="::", help="address to listen on (default: %(default)s, all IPv6 and IPv4 addresses)"
    )
    parser.add_argument("--connections", type=int, help="stop after this many connections (default: never)")
    command.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until the end and print the timelines."""
    if args.connections is not None and args.connections < 1:
        raise LabError("the server needs at least one connection: give --connections 1 or more")
    if args.pause and not args.connections:
        raise LabError("--pause waits for all connections: say how many with --connections")
    command.prepare(args)
    server = Server((args.address, args.port), Conversation.from_arguments(args))

    def stop(number: int, _: FrameType | None) -> None:
        """Stop accepting connections. A second signal ends the server without waiting for its clients."""
        signal.signal(number, signal.SIG_DFL)
        server.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    command.say_ready(args)
    command.show(args, server.serve(args.connections, command.pause_for_all(args, args.connections or 0)))
    return 0
