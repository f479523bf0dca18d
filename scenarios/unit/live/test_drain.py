"""Signals that stop live tools. No kernel needed."""

import signal
import subprocess
import sys
from contextlib import closing

from lab.signals import Stop

# Signals at arbitrary moments, most of them inside wait().
INTERRUPTED = """
import signal
from lab.signals import Stop
received = 0
stop = Stop()

def handler(*_):
    global received, stop
    received += 1
    stop.now()

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
stopped = 0
while received < 5000:
    stopped += stop.wait(0.00005)
    stop = Stop()
signal.setitimer(signal.ITIMER_REAL, 0)
print(stopped)
"""


def test_a_signal_handler_does_not_deadlock_with_the_wait():
    """At any moment the signal handler returns, and the wait ends."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) > 0


def test_a_signal_ends_the_wait():
    """After a signal the wait and all later waits end at once; without one the wait lasts the full time."""
    with closing(Stop()) as stop:
        assert not stop.wait(0.001)
        before = signal.signal(signal.SIGALRM, lambda *_: stop.now())
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            assert stop.wait(60)
            assert stop.wait(60)
        finally:
            signal.signal(signal.SIGALRM, before)
