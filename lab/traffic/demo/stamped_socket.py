"""A TCP socket whose every system call is stamped before and after."""

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from lab.tcp import Flow
from lab.timeline import Call, Timeline

_SO_COOKIE = 57


class StampedSocket:
    """Wraps a socket; its life is told by `timeline`. Blocking calls only.

    A call that fails is stamped too, with its errno; connect, recv and send then return False, b"" and leave the
    connection to be closed, since a refused or reset connection is one of the things that the lab is about.
    """

    def __init__(self, role: str, sock: socket.socket, born: list[Call] | None = None) -> None:
        self.socket = sock  # calls on it directly are not stamped
        self.timeline = Timeline(role, Flow("", 0, "", 0), pid=os.getpid(), comm=_comm(), calls=born or [])
        self.timeline.cookie = struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8))[0]
        self.failed = False

    def identify(self, there: tuple[Any, ...]) -> None:
        """Note both addresses, as soon as the socket has them; `there` is the peer's."""
        here = self.socket.getsockname()
        self.timeline.flow = Flow(_plain(here[0]), here[1], _plain(there[0]), there[1])

    def connect(self, address: tuple[str, int]) -> bool:
        """Connect; False when the peer refused or did not answer."""
        here = self.socket.getsockname()
        self.timeline.flow = Flow(_plain(here[0]), here[1], *address)
        self._stamp("connect", lambda: self.socket.connect(address))
        if not self.failed:
            self.identify(self._peer() or address)
        return not self.failed

    def send(self, data: bytes) -> None:
        """Send everything."""
        while data and not self.failed:
            data = data[self._stamp("send", partial(self.socket.send, data)) :]

    def recv(self, size: int) -> bytes:
        """Receive exactly `size` bytes, or fewer when the peer ends the connection first."""
        received = bytearray()
        while len(received) < size and not self.failed:
            part = self._recv_some(size - len(received))
            if not part:
                break
            received += part
        return bytes(received)

    def poll(self) -> None:
        """Wait until there is something to read."""
        waiting = select.poll()
        waiting.register(self.socket, select.POLLIN)
        self._stamp("poll", lambda: len(waiting.poll()))

    def recv_until_end(self) -> None:
        """Read until the peer has closed, or reset."""
        while not self.failed and self._recv_some(1 << 16):
            pass

    def shutdown(self) -> None:
        """Send a FIN, keep receiving."""
        self._stamp("shutdown", lambda: self.socket.shutdown(socket.SHUT_WR))

    def reset_on_close(self) -> None:
        """Make close() send a RST (SO_LINGER with no time); stamped as `linger0`."""
        linger = struct.pack("ii", 1, 0)
        self._stamp("linger0", lambda: self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger))

    def close(self) -> None:
        """Close the socket."""
        self._stamp("close", self.socket.close)

    def sleep(self, delay_ns: int) -> None:
        """Do nothing for a while, on purpose."""
        if delay_ns:
            self._stamp("sleep", lambda: time.sleep(delay_ns / 1e9))

    def _peer(self) -> tuple[Any, ...] | None:
        """Ask who is at the other end; None when a RST has already taken the connection away."""
        try:
            return self.socket.getpeername()
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
            return None

    def _recv_some(self, size: int) -> bytes:
        received = b""

        def recv() -> int:
            nonlocal received
            received = self.socket.recv(size)
            return len(received)

        self._stamp("recv", recv)
        return received

    def _stamp(self, name: str, call: Callable[[], Any]) -> int:
        result, error = 0, ""
        enter_ns = time.monotonic_ns()
        try:
            result = call() or 0
        except OSError as failure:
            self.failed = True
            error = errno.errorcode[failure.errno or 0]
        exit_ns = time.monotonic_ns()
        self.timeline.calls.append(Call(name, enter_ns, exit_ns, result, error))
        return result


@cache
def _comm() -> str:
    return Path("/proc/self/comm").read_text().rstrip("\n")


def _plain(address: str) -> str:
    return address.removeprefix("::ffff:")
