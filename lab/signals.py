"""Letting Ctrl-C and the like wait while something must not be broken off."""

import select
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end the lab."""


@contextmanager
def defer_signals() -> Iterator[None]:
    """Let those signals wait until the block is over. What is forked inside has them blocked too."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def stopping() -> Iterator["Stop"]:
    """Have Ctrl-C, SIGTERM and SIGHUP ask to stop, inside the block, instead of cutting anything off in the middle."""
    stop = Stop()
    heard = [number for number in ENDING if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda *_: stop.now()) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop.close()


class Stop:
    """A request to stop, made by a signal's handler and waited for by what the signal interrupts.

    No `threading.Event`: its wait() holds a lock for moments in which a handler on the same thread would wait for it, for ever.
    """

    def __init__(self) -> None:
        self._waiting, self._handler = socket.socketpair()

    def now(self) -> None:
        """Stop; safe in a signal's handler."""
        self._handler.send(b"x", socket.MSG_DONTWAIT)

    def wait(self, limit_s: float) -> bool:
        """Wait at most so many seconds; tells whether to stop."""
        waiting = select.poll()  # select() knows no file descriptors above 1023
        waiting.register(self._waiting, select.POLLIN)
        return bool(waiting.poll(limit_s * 1000))

    def close(self) -> None:
        """Give back what it is made of, when no signal leads to it any more."""
        self._waiting.close()
        self._handler.close()
