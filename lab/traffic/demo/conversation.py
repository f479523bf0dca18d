"""The plan of a demo connection: messages, delays and the way to close. Client and server use the same plan."""

import argparse
from dataclasses import dataclass, fields
from typing import NamedTuple

from lab.errors import LabError
from lab.tcp import DEMO_PORT
from lab.timeline import FAST_OPEN
from lab.traffic.demo.ways import BLOCKING, WAYS
from lab.units import duration_ns

PORT = DEMO_PORT


class Pattern(NamedTuple):
    """Who sends what when.

    - `buffered`: one side sends while the other does not read, so that all data must fit into buffers.
    - `client_first`: the client sends the first byte.
    """

    buffered: bool = False
    client_first: bool = True


EXCHANGE = "exchange"

PATTERNS = {
    EXCHANGE: Pattern(),
    "pipelined": Pattern(buffered=True),
    "streamed": Pattern(),
    "early": Pattern(buffered=True, client_first=False),
    "pushed": Pattern(client_first=False),
}
"""The patterns: request and reply by turns; all requests before the first reply is read; a reply in two parts; the first half
of a reply before the second half of the request is read; replies without requests."""

MOST_BUFFERED = 1 << 15
"""Bytes that certainly fit into the buffers of two new sockets, whose first window is of 64 KiB."""

NON_BLOCKING, DEFERRED = "non-blocking", "deferred"

OPENINGS = (BLOCKING, NON_BLOCKING, DEFERRED, FAST_OPEN)
"""Ways to open: connect() blocks until the connection is open; a select() waits for that; connect() blocks, and the server's
kernel waits for data before it opens its side (TCP_DEFER_ACCEPT, tcp(7)); the first request is sent in the SYN (RFC 7413)."""

WITH_DATA = (DEFERRED, FAST_OPEN)
"""Ways to open that need data of the client."""


def refusal(opening: str, way: str, how: str, closer: str, *, asks: bool) -> str | None:
    """Return why a way to open does not go with the rest of a conversation, None if it does.

    `asks`: the client sends the first byte.
    """
    if opening in WITH_DATA and not asks:
        return f"the opening `{opening}` needs data of the client: let it send a request first"
    # The end of an io_uring interrupts the thread later. A blocking send that opens is then restarted, with its data.
    if opening == FAST_OPEN and way == "io_uring":
        return f"with the way `{way}` the kernel can send the data of the SYN twice: choose another way"
    # A server's reset can make the client's first send fail. Linux 6.9 puts off its shutdown() until the handshake is over.
    if opening == FAST_OPEN and how != "close" and closer != "client":
        return (
            f"with the opening `{FAST_OPEN}` the server can close before the handshake is over: let it use close(), "
            "or let the client close first"
        )
    return None


@dataclass(frozen=True)
class Conversation:
    """The plan of each connection. The applications sleep for the delays and stamp each sleep in the timeline.

    In each exchange the client sleeps for `think_ns`, sends `size_bits` and reads a reply of `reply_bits` (0: as many
    as the request). The server sleeps before recv() and before its reply. `pattern`, one of `PATTERNS`, orders these calls.

    Then the `closer` sleeps for `hold_ns` and ends the connection as `how` specifies:

    - `close`: close();
    - `shutdown`: shutdown(SHUT_WR), then close() after the peer has closed;
    - `rst`: a RST.

    The other side closes `linger_ns` after it has seen the end. `way` is how both sides send and receive, one of `WAYS`.
    `opening` is how the connection opens, one of `OPENINGS`.
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
    pattern: str = EXCHANGE

    def __post_init__(self) -> None:
        for bits in (self.size_bits, self.reply_bits or 8):
            if bits < 8 or bits % 8:
                raise LabError(f"messages of {bits} bits cannot be sent: give a multiple of 8, at least 8")
        if self.way not in WAYS:
            raise LabError(f"there is no way `{self.way}` to send and receive: choose from {', '.join(WAYS)}")
        if self.opening not in OPENINGS:
            raise LabError(f"there is no way `{self.opening}` to connect: choose from {', '.join(OPENINGS)}")
        if self.pattern not in PATTERNS:
            raise LabError(f"there is no pattern `{self.pattern}`: choose from {', '.join(PATTERNS)}")
        if PATTERNS[self.pattern].buffered and self.exchanges * max(self.size, self.reply_size) > MOST_BUFFERED:
            raise LabError(
                f"the pattern `{self.pattern}` needs room for all data in the sockets' buffers: "
                f"give at most {8 * MOST_BUFFERED} bits for each connection"
            )
        if self.exchanges < 0:
            raise LabError("the number of exchanges cannot be negative: give 0 or more")
        asks = self.exchanges > 0 and PATTERNS[self.pattern].client_first
        if why := refusal(self.opening, self.way, self.how, self.closer, asks=asks):
            raise LabError(why)

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
        """Return the conversation of parsed options (`add_arguments`). Raises `UnsupportedByKernel` for its way."""
        WAYS[args.way].require()
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
        "--way",
        choices=list(WAYS),
        default=BLOCKING,
        help="how to send and receive (%(default)s); vector2: preadv2(), messages: recvmmsg()",
    )
    group.add_argument(
        "--opening",
        choices=OPENINGS,
        default=BLOCKING,
        help="how the connection opens (%(default)s); deferred: the server waits for data; fast-open: data in the SYN",
    )
    group.add_argument(
        "--pattern",
        choices=list(PATTERNS),
        default=EXCHANGE,
        help="who sends what when: by turns (%(default)s); all requests, then all replies (pipelined); each reply in two parts "
        "(streamed); half of a reply before the request has been read (early); replies without requests (pushed)",
    )
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
