"""The demo client: many connections at once, each a thread with blocking calls, each telling its timeline."""

import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from errno import EADDRNOTAVAIL
from itertools import count

from lab.errors import LabError
from lab.timeline import Timeline
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.stamped_socket import StampedSocket
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

    With a `rate` the connections begin so many a second apart; one that is late, since too many are under way, begins at once.
    `pause` is called by each connection after its exchanges; it returns when the connection may go on.
    """
    try:
        family, _, _, _, found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise LabError(f"cannot find `{address[0]}` ({error.strerror}): give the server's address or name") from error
    address = (str(found[0]), int(found[1]))  # finding the name again would be inside the stamps of connect()
    timelines: list[Timeline] = []
    failures: list[OSError] = []

    numbers = count()
    start_ns = time.monotonic_ns()

    def worker(share: int) -> None:
        for _ in range(share):
            if rate and (early_ns := start_ns + round(next(numbers) * SECOND / rate) - time.monotonic_ns()) > 0:
                time.sleep(early_ns / SECOND)
            try:
                timelines.append(_talk(family, address, conversation, source_port, pause, port_again=share > 1))
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
            f"the client cannot make its connections ({failures[0].strerror}): check address and port, and whether ports are left"
        )
    return timelines


def _talk(
    family: int,
    address: tuple[str, int],
    conversation: Conversation,
    source_port: int,
    pause: Callable[[], None] | None,
    *,
    port_again: bool,
) -> Timeline:
    raw = socket.socket(family, socket.SOCK_STREAM)
    if source_port:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if (
            port_again
        ):  # close() returns when the peer has acknowledged the FIN: before that the next connection cannot have it
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, _LINGER_S))
        raw.bind(("", source_port))
    connection = StampedSocket("client", raw)
    if connection.connect(address):
        for _ in range(conversation.exchanges):
            connection.sleep(conversation.think_ns)
            connection.send(bytes(conversation.size))
            connection.recv(conversation.reply_size)
    elif connection.timeline.calls[-1].error == "EADDRNOTAVAIL":  # no answer of a peer's: nothing was sent
        raise OSError(EADDRNOTAVAIL, os.strerror(EADDRNOTAVAIL))
    if pause:
        pause()
    finish(connection, conversation)
    return connection.timeline


def finish(connection: StampedSocket, conversation: Conversation) -> None:
    """End the connection as the conversation says for this side."""
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
