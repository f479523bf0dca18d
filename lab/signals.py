"""SIGINT, SIGTERM and SIGHUP: end a command once and cleanly, defer them, or turn them into a request to stop.

Python runs a signal's handler in the main thread, between two instructions of whatever runs there. An exception that a handler
raises has two gaps. Raised while objects are being removed after a first signal, it interrupts the removal. Raised inside a weakref
callback or `__del__`, Python discards it, and the program goes on as if nothing had happened. So `ending` raises once, ignores
later signals, and raises again what was discarded.
"""

import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end the lab."""

_RAISE_AGAIN_S = 0.001
_Handlers: TypeAlias = "dict[signal.Signals, Callable[[int, FrameType | None], object]]"
_before: list[dict[signal.Signals, Any]] = []
"""The handlers that each block has replaced, outermost first."""


@contextmanager
def ending(*, interrupt: bool = False, last: bool = False) -> Iterator[None]:
    """Raise on the first signal of `ENDING`: KeyboardInterrupt for SIGINT, SystemExit(128 + number) for the others.

    With `interrupt` it is KeyboardInterrupt for all. Later signals are ignored, since everything is being removed by then. With
    `last` the process ends after the block, so that signals are ignored from there on: what runs at exit is not interrupted.
    A SIGHUP that is ignored (nohup) stays so. Call it in the main thread.
    """
    received: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        if not received:
            received.append(number)
            _raise(number, interrupt=interrupt)

    def raise_again(number: int, frame: FrameType | None) -> None:
        end(received.pop() if received else number, frame)

    def discarded(lost: "UnraisableHookArgs") -> None:
        if received and isinstance(lost.exc_value, (KeyboardInterrupt, SystemExit)):
            signal.setitimer(signal.ITIMER_REAL, _RAISE_AGAIN_S)
        else:
            report(lost)

    report, sys.unraisablehook = sys.unraisablehook, discarded
    handlers: _Handlers = {number: end for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN}
    try:
        with _handled(handlers | {signal.SIGALRM: raise_again}, last=last):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = report


def _raise(number: int, *, interrupt: bool) -> None:
    if interrupt or number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Defer the signals of `ENDING` until the block is over. A process that is forked inside inherits the blocked signals.

    The mask protects system calls of this thread. Another thread may still receive a signal of the process, whose handler Python
    runs in the main thread: there the handlers only take note.
    """
    received: list[int] = []
    handlers: _Handlers = {}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    if threading.current_thread() is threading.main_thread():
        handled = [number for number in ENDING if callable(signal.getsignal(number))]
        handlers = {number: lambda number, _: received.append(number) for number in handled}
    try:
        with _handled(handlers):
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for deferred in dict.fromkeys(received):
            signal.raise_signal(deferred)


@contextmanager
def stopping() -> Iterator["Stop"]:
    """Yield a `Stop` that the signals of `ENDING` set, so that they do not interrupt the block.

    A SIGHUP that is ignored stays so.
    """
    stop = Stop()
    handled = [number for number in ENDING if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN]
    try:
        with _handled(dict.fromkeys(handled, lambda *_: stop.now())):
            yield stop
    finally:
        stop.close()


@contextmanager
def _handled(handlers: "_Handlers", *, last: bool = False) -> Iterator[None]:
    """Install handlers for the block, or with `last` ignore the signals after it."""
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    _before.append(before)
    try:
        yield
    finally:
        _before.pop()
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if last else handler)


def _restore_in_child() -> None:
    """Give a forked child the handlers from before all blocks: it is ended by signals that its parent handles."""
    while _before:
        for number, handler in _before.pop().items():
            signal.signal(number, handler)


os.register_at_fork(after_in_child=_restore_in_child)


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
