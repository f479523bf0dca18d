"""Run the demo server by hand and print each connection's timeline.

Serves many clients at once, until Ctrl-C or until --connections have come and gone.
"""

import argparse
import signal
from types import FrameType

from lab.errors import LabError
from lab.traffic.demo import command
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.server import Server

EXAMPLES = """\
example: answer 20 ms late, on both IP versions
  lab serve --before-reply 20ms
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--address", default="::", help="address to listen on (%(default)s: every one, IPv4 too)")
    parser.add_argument("--connections", type=int, help="stop after this many connections (default: serve on)")
    command.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve."""
    if args.connections is not None and args.connections < 1:
        raise LabError("a server that serves no connection has nothing to do: give --connections 1 or more")
    if args.pause and not args.connections:
        raise LabError("--pause waits until all connections have come: say how many with --connections")
    command.prepare(args)
    server = Server((args.address, args.port), Conversation.from_arguments(args))

    def stop(number: int, _: FrameType | None) -> None:
        """Accept no more; a second signal does not wait for the clients that are left."""
        signal.signal(number, signal.SIG_DFL)
        server.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    command.say_ready(args)
    command.show(args, server.serve(args.connections, command.pause_for_all(args, args.connections or 0)))
    return 0
