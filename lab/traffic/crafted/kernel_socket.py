"""The kernel's end of a connection whose other end is scripted: a real socket and the calls of a script."""

import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import Self

from lab.linux.netns import inside
from lab.tcp import Flow

CALLS = ("connect", "accept", "shutdown", "close", "abort")


class KernelEnd:
    """A socket in a host's namespace. The first call creates it; if it is still open at the end, it is aborted.

    `flow` has the client first. `listener` is given if the kernel is the server.
    """

    def __init__(self, netns: str, flow: Flow, listener: socket.socket | None) -> None:
        self._netns, self._flow, self._listener = netns, flow, listener
        self._socket: socket.socket | None = None

    def call(self, name: str) -> None:
        """Make one of `CALLS`. Raises `ValueError` for an unknown call or one that is not possible in this state."""
        if name not in CALLS:
            raise ValueError(f"`{name}()` is not a call of a script: use {', '.join(CALLS)}")
        getattr(self, name)()

    def connect(self) -> None:
        """Start to connect from the flow's client port, without waiting."""
        family = socket.AF_INET6 if ":" in self._flow.laddr else socket.AF_INET
        self._socket = inside(self._netns, lambda: socket.socket(family))
        self._socket.setblocking(False)  # noqa: FBT003 (the method's only argument)
        self._socket.bind(self._flow[:2])
        self._socket.connect_ex(self._flow[2:])

    def accept(self) -> None:
        """Accept the connection."""
        if self._listener is None:
            raise ValueError("the kernel is the client of this script: leave out accept()")
        self._socket, _ = self._listener.accept()

    def shutdown(self) -> None:
        """Send a FIN and keep receiving."""
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
            raise ValueError("the kernel's end has no socket yet: put accept() or connect() first")
        return self._socket

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._socket and self._socket.fileno() >= 0:
            with suppress(OSError):
                self.abort()
