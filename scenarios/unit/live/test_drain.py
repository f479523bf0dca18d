"""What every live tool rests on, without a kernel."""

import signal
import subprocess
import sys
from contextlib import closing

from lab.signals import Stop

# A signal at every moment that there is, most of them inside wait().
INTERRUPTED = """
import signal
from lab.signals import Stop
heard = 0
stop = Stop()

def handler(*_):
    global heard, stop
    heard += 1
    stop.now()

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
stopped = 0
while heard < 5000:
    stopped += stop.wait(0.00005)
    stop = Stop()
signal.setitimer(signal.ITIMER_REAL, 0)
print(stopped)
"""


def test_a_signal_never_waits_for_what_it_interrupts():
    """Whenever a signal comes, its handler returns and the wait is over."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) > 0


def test_a_signal_ends_the_wait():
    """The wait is over at once, and stays so; without a signal it takes its time."""
    with closing(Stop()) as stop:
        assert not stop.wait(0.001)
        before = signal.signal(signal.SIGALRM, lambda *_: stop.now())
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            assert stop.wait(60)
            assert stop.wait(60)
        finally:
            signal.signal(signal.SIGALRM, before)
