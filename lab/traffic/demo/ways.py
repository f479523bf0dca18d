"""The ways in which the demo's applications send and receive: which system calls they use, and how they wait.

What lives here: one call that sends, one that receives, and one that waits, for each way. What does not: the loops around
them and the timestamps (`stamped_socket.py`).
"""

import os
import select
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from lab.errors import UnsupportedByKernel
from lab.linux import io_uring
from lab.linux.mmsg import recvmmsg, sendmmsg

_PIPE_SIZE = 1 << 16  # bytes of a new pipe, pipe(7)
_SO_ZEROCOPY, _MSG_ZEROCOPY = 60, 0x4000000  # include/uapi/asm-generic/socket.h, include/linux/socket.h
_CURRENT = -1  # preadv2(2): no position in the file
_FOR_ONE = 0x10000  # MSG_WAITFORONE, recvmmsg(2)
_ONE_BY_ONE = 200  # bytes: each takes two system calls and a segment


@dataclass(frozen=True)
class Way:
    """How an application uses its socket.

    - `send` sends a part of the data and returns its length; `recv` receives at most a number of bytes.
    - `waiter` returns a function that waits until the socket is readable, or with true until it is writable. With a waiter
      the socket does not block.
    - `prepare` sets options of the connected socket.
    - `tries_first`: call first and wait when that fails with EAGAIN, as edge-triggered readers must.
    - `peeks`: look at the data with MSG_PEEK before each `recv`.
    - `most`: bytes of the longest message for which the way is quick enough.
    - `require` raises `UnsupportedByKernel` if the kernel lacks what the way needs.
    """

    send: Callable[[socket.socket, bytes], int] = socket.socket.send
    recv: Callable[[socket.socket, int], bytes] = socket.socket.recv
    waiter: Callable[[socket.socket], Callable[[bool], object]] | None = None
    prepare: Callable[[socket.socket], object] | None = None
    tries_first: bool = False
    peeks: bool = False
    most: int = 1 << 30
    require: Callable[[], object] = lambda: None


def _poll(sock: socket.socket) -> Callable[[bool], object]:
    poll = select.poll()

    def wait(writable: bool) -> object:  # noqa: FBT001 (there is one argument)
        poll.register(sock, select.POLLOUT if writable else select.POLLIN)
        return poll.poll()

    return wait


def _select(sock: socket.socket) -> Callable[[bool], object]:
    return lambda writable: select.select([] if writable else [sock], [sock] if writable else [], [])


def _epoll(sock: socket.socket) -> Callable[[bool], object]:
    epoll = select.epoll()
    epoll.register(sock, select.EPOLLIN)

    def wait(writable: bool) -> object:  # noqa: FBT001 (as above)
        epoll.modify(sock, select.EPOLLOUT if writable else select.EPOLLIN)
        return epoll.poll()

    return wait


def _edge(sock: socket.socket) -> Callable[[bool], object]:
    epoll = select.epoll()
    epoll.register(sock, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET | select.EPOLLRDHUP)
    return lambda _: epoll.poll()


def _recvmsg(sock: socket.socket, size: int) -> bytes:
    return sock.recvmsg(size)[0]


def _readv(sock: socket.socket, size: int) -> bytes:
    """Read into two buffers."""
    buffers = [bytearray(-(-size // 2)), bytearray(size // 2)]
    return b"".join(buffers)[: os.readv(sock.fileno(), buffers)]


def _preadv2(sock: socket.socket, size: int) -> bytes:
    buffer = bytearray(size)
    return bytes(buffer[: os.preadv(sock.fileno(), [buffer], _CURRENT)])


def _sendfile(sock: socket.socket, data: bytes) -> int:
    file = os.memfd_create("data")
    try:
        os.write(file, data)
        return os.sendfile(sock.fileno(), file, 0, len(data))
    finally:
        os.close(file)


def _splice(sock: socket.socket, data: bytes) -> int:
    read, write = os.pipe()
    try:
        return os.splice(read, sock.fileno(), os.write(write, data[:_PIPE_SIZE]))
    finally:
        os.close(read)
        os.close(write)


def _zerocopy(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, _SO_ZEROCOPY, 1)


def _inline(sock: socket.socket) -> None:
    """Leave urgent bytes in their place among the others."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def _at_once(sock: socket.socket) -> None:
    """Send each byte in a segment of its own, without waiting for acknowledgements (Nagle's algorithm, RFC 9293, 3.7.4)."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _try_io_uring() -> None:
    with io_uring.ring():
        pass


def _io_uring_send(sock: socket.socket, data: bytes) -> int:
    with io_uring.ring() as ring:
        return ring.send(sock, data)


def _io_uring_recv(sock: socket.socket, size: int) -> bytes:
    with io_uring.ring() as ring:
        return ring.recv(sock, size)


def _by_thread(call: Callable[[], Any]) -> Any:
    """Return the result of a call that a thread of its own makes."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result()


BLOCKING = "blocking"

WAYS = {
    BLOCKING: Way(),
    "file": Way(lambda sock, data: os.write(sock.fileno(), data), lambda sock, size: os.read(sock.fileno(), size)),
    "message": Way(lambda sock, data: sock.sendmsg([data[:1], data[1:]]), _recvmsg),
    "vector": Way(lambda sock, data: os.writev(sock.fileno(), [data[:1], data[1:]]), _readv),
    "vector2": Way(lambda sock, data: os.pwritev(sock.fileno(), [data], _CURRENT), _preadv2),
    "wait-all": Way(recv=lambda sock, size: sock.recv(size, socket.MSG_WAITALL)),
    "zerocopy": Way(lambda sock, data: sock.send(data, _MSG_ZEROCOPY), prepare=_zerocopy),
    "sendfile": Way(send=_sendfile),
    "splice": Way(send=_splice),
    "messages": Way(
        lambda sock, data: sendmmsg(sock, [data])[0],
        lambda sock, size: b"".join(recvmmsg(sock, [-(-size // 2), size // 2] if size > 1 else [size], _FOR_ONE)),
    ),
    "peek": Way(peeks=True),
    "urgent": Way(lambda sock, data: sock.send(data, socket.MSG_OOB), prepare=_inline),
    "one-byte": Way(
        lambda sock, data: sock.send(data[:1]), lambda sock, _: sock.recv(1), prepare=_at_once, most=_ONE_BY_ONE
    ),
    "threads": Way(
        lambda sock, data: _by_thread(lambda: sock.send(data)), lambda sock, size: _by_thread(lambda: sock.recv(size))
    ),
    "io_uring": Way(_io_uring_send, _io_uring_recv, require=_try_io_uring),
    "poll": Way(waiter=_poll),
    "select": Way(waiter=_select),
    "epoll": Way(waiter=_epoll),
    "edge": Way(waiter=_edge, tries_first=True),
}
"""Every way by its name. `vector2` stands for preadv2() and pwritev2(), `messages` for sendmmsg() and recvmmsg()."""


def ways_here() -> list[str]:
    """Return the names of the ways that this kernel offers."""
    here = []
    for name, way in WAYS.items():
        try:
            way.require()
        except UnsupportedByKernel:
            continue
        here.append(name)
    return here
