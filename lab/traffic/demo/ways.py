"""The ways in which the demo's applications send and receive: which system calls they use, and how they wait.

What lives here: one call that sends, one that receives, and one that waits, for each way. What does not: the loops around
them and the timestamps (`stamped_socket.py`).
"""

import os
import select
import socket
from collections.abc import Callable
from dataclasses import dataclass

_PIPE_SIZE = 1 << 16  # bytes of a new pipe, pipe(7)
_SO_ZEROCOPY, _MSG_ZEROCOPY = 60, 0x4000000  # include/uapi/asm-generic/socket.h, include/linux/socket.h
_CURRENT = -1  # preadv2(2): no position in the file


@dataclass(frozen=True)
class Way:
    """How an application uses its socket.

    - `send` sends a part of the data and returns its length; `recv` receives at most a number of bytes.
    - `waiter` returns a function that waits until the socket is readable, or with true until it is writable. With a waiter
      the socket does not block.
    - `prepare` sets options of the connected socket.
    - `tries_first`: call first and wait when that fails with EAGAIN, as edge-triggered readers must.
    """

    send: Callable[[socket.socket, bytes], int] = socket.socket.send
    recv: Callable[[socket.socket, int], bytes] = socket.socket.recv
    waiter: Callable[[socket.socket], Callable[[bool], object]] | None = None
    prepare: Callable[[socket.socket], object] | None = None
    tries_first: bool = False


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
    "poll": Way(waiter=_poll),
    "select": Way(waiter=_select),
    "epoll": Way(waiter=_epoll),
    "edge": Way(waiter=_edge, tries_first=True),
}
"""Every way by its name. `vector2` stands for preadv2() and pwritev2()."""
