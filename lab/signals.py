"""Letting Ctrl-C and the like wait while something must not be broken off."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end the lab."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let those signals wait until the block is over. What is forked inside has them blocked too."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
