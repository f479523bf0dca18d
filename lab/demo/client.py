"""The demo client: many connections at once, each a thread with blocking calls, each telling its timeline."""

import socket
import threading
from collections.abc import Callable

from lab.demo.conversation import Conversation
from lab.demo.stamped import StampedSocket
from lab.errors import LabError
from lab.timeline import Timeline


def run(
    address: tuple[str, int],
    conversation: Conversation,
    *,
    connections: int = 1,
    concurrency: int | None = None,
    source_port: int = 0,
    pause: Callable[[], None] | None = None,
) -> list[Timeline]:
    """Hold `connections` conversations, at most `concurrency` at a time (default: all), and return their timelines.

    `pause` is called by each connection after its exchanges; it returns when the connection may go on.
    """
    try:
        family, _, _, _, found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise LabError(f"cannot find `{address[0]}` ({error.strerror}): give the server's address or name") from error
    address = (str(found[0]), int(found[1]))  # finding the name again would be inside the stamps of connect()
    timelines: list[Timeline] = []
    failures: list[OSError] = []

    def worker(share: int) -> None:
        for _ in range(share):
            try:
                timelines.append(_talk(family, address, conversation, source_port, pause))
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
            f"the client cannot make its connections ({failures[0].strerror}): check address, port and limits"
        )
    return timelines


def _talk(
    family: int,
    address: tuple[str, int],
    conversation: Conversation,
    source_port: int,
    pause: Callable[[], None] | None,
) -> Timeline:
    raw = socket.socket(family, socket.SOCK_STREAM)
    if source_port:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        raw.bind(("", source_port))
    connection = StampedSocket("client", raw)
    if connection.connect(address):
        for _ in range(conversation.exchanges):
            connection.sleep(conversation.think_ns)
            connection.send(bytes(conversation.size))
            connection.recv(conversation.size)
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
