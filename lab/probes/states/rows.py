"""The rows that `lab states --json` prints."""

from typing import Annotated

from msgspec import Meta

from lab.live.row_types import Head, OfSocket, OfThread, SocketAddress, Span

StateName = Annotated[str, Meta(description="TCP state, spelt as in the kernel")]


class Change(Head, OfSocket, OfThread):
    """A change of a socket's state."""

    skaddr: SocketAddress
    oldstate: StateName
    newstate: StateName
    duration_ns: Annotated[Span | None, Meta(description="time in `oldstate`")]


SCHEMAS = {"states": Change}
