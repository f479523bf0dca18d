"""Forked processes for the bench: each inherits the sockets and programs that it measures."""

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from lab.signals import ENDING, defer_signals

_FORK = multiprocessing.get_context("fork")


def pipe() -> tuple[Connection, Connection]:
    """Return both ends of a pipe between this process and a forked one."""
    return _FORK.Pipe()


def forked(function: Callable[..., object], *arguments: object) -> BaseProcess:
    """Start a process that calls a function. It is a daemon: multiprocessing terminates it when this process exits.

    The process ignores SIGINT. Otherwise Ctrl-C in a terminal would end it first, and the bench would report that as a
    failure.
    """
    process = _FORK.Process(target=_without_interrupts, args=(function, *arguments), daemon=True)
    # Python runs the at-fork handlers first and drops their exceptions, including a KeyboardInterrupt.
    with defer_signals():
        process.start()
    return process


def _without_interrupts(function: Callable[..., object], *arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    function(*arguments)
