"""The demo server: one listener and a thread for each connection. It returns a timeline for each connection."""

import selectors
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from lab.errors import LabError
from lab.timeline import FAST_OPEN, Call, Timeline
from lab.traffic.demo.client import finish
from lab.traffic.demo.conversation import DEFERRED, WITH_DATA, Conversation
from lab.traffic.demo.stamped_socket import TCP_FASTOPEN_NO_COOKIE, StampedSocket
from lab.traffic.demo.turns import SERVER

_MAX_THREADS = 10_000
_QUEUE = 1 << 16
_FAST_OPEN, _FOR_SERVERS = Path("/proc/sys/net/ipv4/tcp_fastopen"), 2
_DEFER_S = 5


class Server:
    """A server that listens as soon as it is created. Raises `LabError` if it cannot bind the address."""

    def __init__(self, address: tuple[str, int], conversation: Conversation) -> None:
        self._conversation = conversation
        self._stop, self._stopped = socket.socketpair()
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            # The interface of a link-local address (`fe80::1%eth0`) becomes a number of the socket's address.
            scope = socket.if_nametoindex(address[0].partition("%")[2]) if "%" in address[0] else 0
            self._listener.bind((address[0].partition("%")[0], address[1], 0, scope) if scope else address)
        except OSError as error:
            raise LabError(
                f"cannot listen on {address[0]} port {address[1]} ({error.strerror}): choose another"
            ) from error
        if conversation.opening == DEFERRED:
            self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, _DEFER_S)
        if conversation.opening == FAST_OPEN:
            if not int(_FAST_OPEN.read_text(encoding="ascii")) & _FOR_SERVERS:
                raise LabError(
                    "TCP Fast Open is off for servers in this network namespace: run `sysctl -w net.ipv4.tcp_fastopen=3`"
                )
            self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, _QUEUE)
            self._listener.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1)
        self._listener.listen(_QUEUE)  # the kernel limits it to net.core.somaxconn

    def serve(self, connections: int | None, pause: Callable[[], None] | None = None) -> list[Timeline]:
        """Accept `connections` (None: until `stop` is called), wait for their ends, and return their timelines."""
        sockets: list[StampedSocket] = []
        talks: list[Future[None]] = []
        # The pool reuses the threads of connections that have ended.
        threads = ThreadPoolExecutor(max_workers=connections or _MAX_THREADS)
        with threads, selectors.DefaultSelector() as selector, self._listener:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._stopped, selectors.EVENT_READ)
            while connections is None or len(sockets) < connections:
                if any(key.fileobj is self._stopped for key, _ in selector.select()):
                    break
                connection = self._accept()
                sockets.append(connection)
                talks.append(threads.submit(self._converse, connection, pause))
        for talk in talks:
            talk.result()
        return [connection.timeline for connection in sockets]

    def stop(self) -> None:
        """Stop accepting connections. Safe in a signal handler."""
        self._stop.send(b"x")

    def _accept(self) -> StampedSocket:
        """Accept a connection that is waiting. The sleep before accept() is time in the accept queue."""
        calls = []
        if self._conversation.before_accept_ns:
            enter_ns = time.monotonic_ns()
            time.sleep(self._conversation.before_accept_ns / 1e9)
            calls.append(Call("sleep", enter_ns, time.monotonic_ns()))
        enter_ns = time.monotonic_ns()
        if self._conversation.opening in WITH_DATA:
            calls.append(Call(self._conversation.opening, enter_ns, enter_ns))
        accepted, peer = self._listener.accept()
        calls.append(Call("accept", enter_ns, time.monotonic_ns()))
        connection = StampedSocket("server", accepted, calls, self._conversation.way)
        connection.open()
        connection.identify(peer)  # getpeername() fails on a connection that was reset before accept()
        return connection

    def _converse(self, connection: StampedSocket, pause: Callable[[], None] | None) -> None:
        SERVER[self._conversation.pattern](connection, self._conversation)
        if pause:
            pause()
        finish(connection, self._conversation)
