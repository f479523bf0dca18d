"""Parts of the bench that need a process of their own: forked off, with what they measure in hand."""

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from lab.signals import ENDING, defer_signals

_FORK = multiprocessing.get_context("fork")


def pipe() -> tuple[Connection, Connection]:
    """Return both ends of a pipe for a forked process to talk through."""
    return _FORK.Pipe()


def forked(function: Callable[..., object], *arguments: object) -> BaseProcess:
    """Call a function in a process that is started now, and that ends with this one.

    A terminal's Ctrl-C is left to the bench: whoever waits for a process that is gone would take that for a failure.
    """
    process = _FORK.Process(target=_deaf_to_interrupts, args=(function, *arguments), daemon=True)
    # What Python's own modules do after a fork comes first, and an exception there is dropped: Ctrl-C would be lost.
    with defer_signals():
        process.start()
    return process


def _deaf_to_interrupts(function: Callable[..., object], *arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    function(*arguments)
