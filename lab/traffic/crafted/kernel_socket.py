"""The kernel's end of a connection whose other end is made by hand: a real socket, and the calls that a story makes on it."""

import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import Self

from lab.linux.netns import inside
from lab.tcp import Flow

CALLS = ("connect", "accept", "shutdown", "close", "abort")


class KernelEnd:
    """A socket of a host's kernel, made by the first call; what is left open at the end is aborted.

    `flow` is the connection's, the client first; `listener` is there if the kernel is the server.
    """

    def __init__(self, netns: str, flow: Flow, listener: socket.socket | None) -> None:
        self._netns, self._flow, self._listener = netns, flow, listener
        self._socket: socket.socket | None = None

    def call(self, name: str) -> None:
        """Make a call (`CALLS`). Raises `ValueError` for one that cannot be made now."""
        if name not in CALLS:
            raise ValueError(f"`{name}()` is none of the calls of a story: {', '.join(CALLS)}")
        getattr(self, name)()

    def connect(self) -> None:
        """Begin to connect, from the flow's own port, and do not wait."""
        family = socket.AF_INET6 if ":" in self._flow.laddr else socket.AF_INET
        self._socket = inside(self._netns, lambda: socket.socket(family))
        self._socket.setblocking(False)  # noqa: FBT003 (the method's only argument)
        self._socket.bind(self._flow[:2])
        self._socket.connect_ex(self._flow[2:])

    def accept(self) -> None:
        """Accept the connection."""
        if self._listener is None:
            raise ValueError("only a kernel that is the server accepts")
        self._socket, _ = self._listener.accept()

    def shutdown(self) -> None:
        """Close the direction from the kernel."""
        self._known().shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket."""
        self._known().close()

    def abort(self) -> None:
        """Close the socket with a RST."""
        self._known().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._known().close()

    def _known(self) -> socket.socket:
        if self._socket is None:
            raise ValueError("the story has neither accept() nor connect() before")
        return self._socket

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._socket and self._socket.fileno() >= 0:
            with suppress(OSError):
                self.abort()
