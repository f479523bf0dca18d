"""The demo client: parallel connections in threads with blocking calls. It returns a timeline for each connection."""

import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from errno import EADDRNOTAVAIL, EOPNOTSUPP, errorcode
from itertools import count

from lab.errors import LabError
from lab.timeline import FAST_OPEN, Timeline
from lab.traffic.demo.conversation import NON_BLOCKING, Conversation
from lab.traffic.demo.stamped_socket import StampedSocket
from lab.traffic.demo.turns import CLIENT
from lab.units import SECOND

_LINGER_S = 20


def run(
    address: tuple[str, int],
    conversation: Conversation,
    *,
    connections: int = 1,
    concurrency: int | None = None,
    rate: float | None = None,
    source_port: int = 0,
    pause: Callable[[], None] | None = None,
) -> list[Timeline]:
    """Hold `connections` conversations, at most `concurrency` at a time (default: all), and return their timelines.

    `rate` is the number of connections to open per second. A connection that is late, because `concurrency` was
    reached, opens at once. Each connection calls `pause` after its exchanges and continues when it returns.
    """
    try:
        family, _, _, _, found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise LabError(f"cannot find `{address[0]}` ({error.strerror}): give the server's address or name") from error
    # connect() is to resolve no name between its timestamps. A link-local address needs its interface (sin6_scope_id).
    resolved = (str(found[0]).partition("%")[0], *found[1:])
    timelines: list[Timeline] = []
    failures: list[OSError] = []

    numbers = count()
    start_ns = time.monotonic_ns()

    def worker(share: int) -> None:
        for _ in range(share):
            if rate and (early_ns := start_ns + round(next(numbers) * SECOND / rate) - time.monotonic_ns()) > 0:
                time.sleep(early_ns / SECOND)
            try:
                timelines.append(_talk(family, resolved, conversation, source_port, pause, reuse_port=share > 1))
            except OSError as error:
                failures.append(error)

    workers = min(concurrency or connections, connections)
    shares = [connections // workers + (number < connections % workers) for number in range(workers)]
    threads = [threading.Thread(target=worker, args=(share,), daemon=True) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise LabError(
            f"the client cannot connect ({failures[0].strerror}): check the address, the port, and the free local ports"
        )
    return timelines


def _talk(
    family: int,
    address: tuple[str | int, ...],
    conversation: Conversation,
    source_port: int,
    pause: Callable[[], None] | None,
    *,
    reuse_port: bool,
) -> Timeline:
    raw = socket.socket(family, socket.SOCK_STREAM)
    if source_port:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:  # close() then waits until the peer has acknowledged the FIN; before that the port is in use
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, _LINGER_S))
        raw.bind(("", source_port))
    connection = StampedSocket("client", raw, way=conversation.way)
    if conversation.opening == FAST_OPEN:
        connection.connect_by_send(address)
    elif connection.connect(address, blocking=conversation.opening != NON_BLOCKING):
        connection.open()
    if not connection.failed:
        CLIENT[conversation.pattern](connection, conversation)
    for local in (EADDRNOTAVAIL, EOPNOTSUPP):  # nothing was sent
        if connection.timeline.opening.error == errorcode[local]:
            raise OSError(local, os.strerror(local))
    if pause:
        pause()
    finish(connection, conversation)
    return connection.timeline


def finish(connection: StampedSocket, conversation: Conversation) -> None:
    """End the connection as the conversation specifies for this side."""
    if connection.failed:
        connection.close()
    elif conversation.closes_first(connection.timeline.role):
        connection.sleep(conversation.hold_ns)
        if conversation.how == "shutdown":
            connection.shutdown()
            connection.recv_until_end()
        elif conversation.how == "rst":
            connection.reset_on_close()
        connection.close()
    else:
        connection.recv_until_end()
        connection.sleep(conversation.linger_ns)
        connection.close()
