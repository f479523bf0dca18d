"""A TCP socket with a timestamp before and after every system call."""

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
from lab.timeline import FAST_OPEN, Call, Timeline
from lab.traffic.demo.ways import BLOCKING, WAYS

_SO_COOKIE = 57
TCP_FASTOPEN_NO_COOKIE = 34  # include/uapi/linux/tcp.h


class StampedSocket:
    """A wrapper of a socket that records its calls in `timeline`.

    `way` is the name of a way to send and receive (`WAYS`). Its calls are recorded as `send`, `recv` and `peek`, waiting as `poll`.
    A failed call is recorded with its errno and sets `failed`; it does not raise, since scenarios refuse and reset
    connections on purpose. Then connect() returns False, and recv() returns the bytes received so far. The caller must
    still call close().
    """

    def __init__(self, role: str, sock: socket.socket, born: list[Call] | None = None, way: str = BLOCKING) -> None:
        self.socket = sock  # direct calls on it are not recorded
        self.timeline = Timeline(role, Flow("", 0, "", 0), pid=os.getpid(), comm=_comm(), calls=born or [])
        self.timeline.cookie = struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8))[0]
        self.failed = False
        self._way = WAYS[way]
        self._wait: Callable[[bool], object] | None = None
        self._opens_to: tuple[Any, ...] | None = None

    def open(self) -> None:
        """Prepare the connected socket for its way to send and receive."""
        if self._way.prepare:
            self._way.prepare(self.socket)
        if self._way.waiter:
            self.socket.setblocking(False)  # noqa: FBT003 (it takes no keyword)
            self._wait = self._way.waiter(self.socket)

    def identify(self, remote: tuple[Any, ...]) -> None:
        """Record both addresses in the timeline; `remote` is the peer's."""
        local = self.socket.getsockname()
        self.timeline.flow = Flow(_plain(local[0]), local[1], _plain(remote[0]), remote[1])

    def connect(self, address: tuple[Any, ...], *, blocking: bool = True) -> bool:
        """Connect; return False if the peer refused or did not answer.

        If connect() is not to block, the wait for its outcome is recorded as `poll`, with the error of the outcome.
        """
        local = self.socket.getsockname()
        self.timeline.flow = Flow(_plain(local[0]), local[1], _plain(address[0]), address[1])
        self.socket.setblocking(blocking)
        self._stamp("connect", lambda: self.socket.connect(address))
        if self.timeline.calls[-1].error == "EINPROGRESS":
            self.failed = False
            local = self.socket.getsockname()  # now, since a refused connect() releases the port
            self.timeline.flow = self.timeline.flow._replace(laddr=_plain(local[0]), lport=local[1])
            self._stamp("poll", self._connected)
        self.socket.setblocking(True)  # noqa: FBT003 (it takes no keyword)
        if not self.failed:
            self.identify(self._peer() or address)
        return not self.failed

    def connect_by_send(self, address: tuple[Any, ...]) -> None:
        """Let the first send() connect, with its data in the SYN and without a cookie (TCP Fast Open, RFC 7413)."""
        self.socket.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1)
        self.identify(address)
        self._opens_to = address

    def send(self, data: bytes) -> None:
        """Send all data."""
        if self._opens_to:
            data = data[self._open_with(data, self._opens_to) :]
        while data and not self.failed:
            sent = self._try("send", partial(self._way.send, self.socket, data))
            data = data[sent or 0 :]
            if sent is None:
                self._await(writable=True)

    def recv(self, size: int) -> bytes:
        """Receive exactly `size` bytes, or fewer if the peer ends the connection first."""
        received = bytearray()
        while len(received) < size and not self.failed:
            part = self._recv_some(size - len(received))
            if not part:
                break
            received += part
        return bytes(received)

    def poll(self) -> None:
        """Wait until the socket is readable."""
        waiting = select.poll()
        waiting.register(self.socket, select.POLLIN)
        self._stamp("poll", lambda: len(waiting.poll()))

    def recv_until_end(self) -> None:
        """Read until the peer closes or resets the connection."""
        while not self.failed and self._recv_some(1 << 16):
            pass

    def shutdown(self) -> None:
        """Send a FIN and keep receiving."""
        self._stamp("shutdown", lambda: self.socket.shutdown(socket.SHUT_WR))

    def reset_on_close(self) -> None:
        """Make close() send a RST (SO_LINGER of 0 s). The call is recorded as `linger0`."""
        linger = struct.pack("ii", 1, 0)
        self._stamp("linger0", lambda: self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger))

    def close(self) -> None:
        """Close the socket."""
        self._stamp("close", self.socket.close)

    def sleep(self, delay_ns: int) -> None:
        """Sleep for a configured delay; 0 records no call."""
        if delay_ns:
            self._stamp("sleep", lambda: time.sleep(delay_ns / 1e9))

    def _open_with(self, data: bytes, address: tuple[Any, ...]) -> int:
        self._opens_to = None
        self._stamp(FAST_OPEN, lambda: 0)
        sent = self._stamp("send", lambda: self.socket.sendto(data, socket.MSG_FASTOPEN, address))
        if not self.failed:
            self.identify(self._peer() or address)
            self.open()
        return sent

    def _connected(self) -> int:
        """Wait for the outcome of a connect() that does not block. Raises `OSError` if it failed."""
        select.select([], [self.socket], [])
        if number := self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(number, os.strerror(number))
        return 1

    def _peer(self) -> tuple[Any, ...] | None:
        """Return the peer's address, or None if a RST has already ended the connection."""
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
            received = self._way.recv(self.socket, size)
            return len(received)

        if self._way.peeks:
            self._stamp("peek", lambda: len(self.socket.recv(size, socket.MSG_PEEK)))
            if self.failed:
                return b""
        if not self._way.tries_first:
            self._await(writable=False)
        while self._try("recv", recv) is None:
            self._await(writable=False)
        return received

    def _await(self, *, writable: bool) -> None:
        if wait := self._wait:
            self._stamp("poll", lambda: int(bool(wait(writable))))

    def _try(self, name: str, call: Callable[[], int]) -> int | None:
        """Make a call that may fail with EAGAIN, as it does if the socket does not block; then return None."""
        result = self._stamp(name, call)
        if self.timeline.calls[-1].error != "EAGAIN":
            return result
        self.failed = False
        return None

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
    return Path("/proc/self/comm").read_text(encoding="utf-8").rstrip("\n")


def _plain(address: str) -> str:
    """Return an address without the prefix of IPv4 in IPv6, and without the interface of a link-local one."""
    return address.removeprefix("::ffff:").partition("%")[0]
