"""The calls of both sides in each pattern of a conversation (`PATTERNS`), between the opening of a connection and its end."""

from collections.abc import Callable

from lab.traffic.demo.conversation import EXCHANGE, Conversation
from lab.traffic.demo.stamped_socket import StampedSocket

Part = Callable[[StampedSocket, Conversation], None]


def _asks(connection: StampedSocket, conversation: Conversation) -> None:
    """Send each request, and read its reply before the next one."""
    for _ in range(conversation.exchanges):
        connection.sleep(conversation.think_ns)
        connection.send(bytes(conversation.size))
        connection.recv(conversation.reply_size)


def _answers(connection: StampedSocket, conversation: Conversation) -> None:
    """Read each request to its end, and reply."""
    for _ in range(conversation.exchanges):
        if not _reads(connection, conversation, conversation.size):
            return
        _replies(connection, conversation, conversation.reply_size)


def _asks_ahead(connection: StampedSocket, conversation: Conversation) -> None:
    """Send all requests, then read all replies."""
    for _ in range(conversation.exchanges):
        connection.sleep(conversation.think_ns)
        connection.send(bytes(conversation.size))
    connection.recv(conversation.reply_size * conversation.exchanges)


def _streams(connection: StampedSocket, conversation: Conversation) -> None:
    """Reply in two parts, each after a delay."""
    for _ in range(conversation.exchanges):
        if not _reads(connection, conversation, conversation.size):
            return
        for size in _halves(conversation.reply_size):
            _replies(connection, conversation, size)


def _answers_early(connection: StampedSocket, conversation: Conversation) -> None:
    """Send the first half of the reply before reading the second half of the request, as HTTP/2 servers do."""
    for _ in range(conversation.exchanges):
        for asked, replied in zip(_halves(conversation.size), _halves(conversation.reply_size), strict=True):
            if not _reads(connection, conversation, asked):
                return
            _replies(connection, conversation, replied)


def _listens(connection: StampedSocket, conversation: Conversation) -> None:
    """Read what the server sends, without a request."""
    for _ in range(conversation.exchanges):
        connection.recv(conversation.reply_size)


def _pushes(connection: StampedSocket, conversation: Conversation) -> None:
    """Send without having been asked."""
    for _ in range(conversation.exchanges):
        _replies(connection, conversation, conversation.reply_size)


def _reads(connection: StampedSocket, conversation: Conversation, size: int) -> bool:
    connection.sleep(conversation.before_recv_ns)
    return len(connection.recv(size)) == size


def _replies(connection: StampedSocket, conversation: Conversation, size: int) -> None:
    connection.sleep(conversation.before_reply_ns)
    connection.send(bytes(size))


def _halves(size: int) -> tuple[int, int]:
    return size // 2, size - size // 2


CLIENT: dict[str, Part] = {
    EXCHANGE: _asks,
    "pipelined": _asks_ahead,
    "streamed": _asks,
    "early": _asks,
    "pushed": _listens,
}
"""The client's part in each pattern."""

SERVER: dict[str, Part] = {
    EXCHANGE: _answers,
    "pipelined": _answers,
    "streamed": _streams,
    "early": _answers_early,
    "pushed": _pushes,
}
"""The server's part in each pattern."""
