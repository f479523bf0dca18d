"""The plan of a demo connection: messages, delays and the way to close. Client and server use the same plan."""

import argparse
from dataclasses import dataclass, fields

from lab.errors import LabError
from lab.traffic.demo.ways import BLOCKING, WAYS
from lab.units import duration_ns

PORT = 9999

OPENINGS = (BLOCKING, "non-blocking")
"""Ways to connect: connect() blocks until the connection is open, or a select() waits for that."""


@dataclass(frozen=True)
class Conversation:
    """The plan of each connection. The applications sleep for the delays and stamp each sleep in the timeline.

    In each exchange the client sleeps for `think_ns`, sends `size_bits` and reads a reply of `reply_bits` (0: as many
    as the request). The server sleeps before recv() and before its reply.

    Then the `closer` sleeps for `hold_ns` and ends the connection as `how` specifies:

    - `close`: close();
    - `shutdown`: shutdown(SHUT_WR), then close() after the peer has closed;
    - `rst`: a RST.

    The other side closes `linger_ns` after it has seen the end. `way` is how both sides send and receive, one of `WAYS`.
    `opening` is how the client connects, one of `OPENINGS`.
    """

    size_bits: int = 3000
    reply_bits: int = 0
    exchanges: int = 1
    closer: str = "client"
    how: str = "close"
    before_accept_ns: int = 0
    before_recv_ns: int = 0
    before_reply_ns: int = 0
    think_ns: int = 0
    hold_ns: int = 0
    linger_ns: int = 0
    way: str = BLOCKING
    opening: str = BLOCKING

    def __post_init__(self) -> None:
        for bits in (self.size_bits, self.reply_bits or 8):
            if bits < 8 or bits % 8:
                raise LabError(f"messages of {bits} bits cannot be sent: give a multiple of 8, at least 8")
        if self.way not in WAYS:
            raise LabError(f"there is no way `{self.way}` to send and receive: choose from {', '.join(WAYS)}")
        if self.opening not in OPENINGS:
            raise LabError(f"there is no way `{self.opening}` to connect: choose from {', '.join(OPENINGS)}")
        if self.exchanges < 0:
            raise LabError("the number of exchanges cannot be negative: give 0 or more")

    @property
    def size(self) -> int:
        """Bytes of one request."""
        return self.size_bits // 8

    @property
    def reply_size(self) -> int:
        """Bytes of one reply."""
        return self.reply_bits // 8 or self.size

    def closes_first(self, role: str) -> bool:
        """Return true if this side ends the connection without waiting for the other."""
        return self.closer in (role, "both")

    def arguments(self) -> list[str]:
        """Return the command-line options for this conversation."""
        options = []
        for field in fields(self):
            value = getattr(self, field.name)
            name = field.name.removesuffix("_ns").replace("_", "-")
            options += [f"--{name}", f"{value}ns" if field.name.endswith("_ns") else str(value)]
        return options

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> "Conversation":
        """Return the conversation of parsed options (`add_arguments`)."""
        return cls(**{field.name: getattr(args, field.name) for field in fields(cls)})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a conversation. Client and server must get the same values."""
    group = parser.add_argument_group("conversation (the same for client and server)")
    group.add_argument("--size-bits", type=int, default=3000, metavar="BITS", help="size of each request (%(default)s)")
    group.add_argument(
        "--reply-bits", type=int, default=0, metavar="BITS", help="size of each reply (size of the request)"
    )
    group.add_argument("--exchanges", type=int, default=1, metavar="N", help="requests per connection (%(default)s)")
    group.add_argument(
        "--closer", choices=("client", "server", "both"), default="client", help="side that closes first"
    )
    group.add_argument("--how", choices=("close", "shutdown", "rst"), default="close", help="how the closer closes")
    group.add_argument(
        "--way", choices=list(WAYS), default=BLOCKING, help="how to send and receive (%(default)s); vector2: preadv2()"
    )
    group.add_argument("--opening", choices=OPENINGS, default=BLOCKING, help="how the client connects (%(default)s)")
    delays = {
        "before-accept": "server: before accept(), when a connection is ready",
        "before-recv": "server: before each recv()",
        "before-reply": "server: before each reply",
        "think": "client: before each request",
        "hold": "closer: before it closes",
        "linger": "other side: between the end of the stream and close()",
    }
    for name, text in delays.items():
        destination = name.replace("-", "_") + "_ns"
        group.add_argument(f"--{name}", type=duration_ns, default=0, dest=destination, metavar="TIME", help=text)
