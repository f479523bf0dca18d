"""Defer SIGINT, SIGTERM and SIGHUP inside a block that must not be interrupted, or turn them into a request to stop."""

import select
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end the lab."""


@contextmanager
def defer_signals() -> Iterator[None]:
    """Block the signals of `ENDING` until the block is over.

    A process that is forked inside inherits the blocked signals.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def stopping() -> Iterator["Stop"]:
    """Yield a `Stop` that the signals of `ENDING` set, so that they do not interrupt the block.

    A SIGHUP that is ignored stays so.
    """
    stop = Stop()
    handled = [number for number in ENDING if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda *_: stop.now()) for number in handled}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop.close()


class Stop:
    """A request to stop: set in a signal handler, awaited by the code that the signal interrupts.

    `threading.Event` is not usable: wait() takes a lock, and a handler on the same thread that needs the lock would
    deadlock.
    """

    def __init__(self) -> None:
        self._waiting, self._handler = socket.socketpair()

    def now(self) -> None:
        """Request the stop; safe in a signal handler."""
        self._handler.send(b"x", socket.MSG_DONTWAIT)

    def wait(self, limit_s: float) -> bool:
        """Wait for at most `limit_s` seconds. Return whether the stop was requested."""
        poll = select.poll()  # select() accepts no file descriptors above 1023
        poll.register(self._waiting, select.POLLIN)
        return bool(poll.poll(limit_s * 1000))

    def close(self) -> None:
        """Close the sockets. Restore the signal handlers first."""
        self._waiting.close()
        self._handler.close()
