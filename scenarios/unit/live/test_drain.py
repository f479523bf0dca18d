"""The loop of live tools: the signals that stop it, and the losses that it reports. No BPF program is needed."""

import signal
import subprocess
import sys
from contextlib import closing, nullcontext

from lab.live import drain
from lab.live.account import Account
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


class Withholding:
    """A program of which the kernel has withheld `missed` runs."""

    missed = 0

    def attached(self, *_):
        """Attach nothing."""
        return nullcontext()

    def without_room(self):
        """Return 0: no buffer is full."""
        return 0

    def withheld_by_recursion(self):
        """Return the number of runs that the kernel has withheld."""
        return self.missed


def test_withheld_events_are_reported_while_the_tool_runs(monkeypatch, capsys):
    """Each is reported once, although the kernel's number is a sum: a server of metrics does not wait for the end."""
    monkeypatch.setattr(drain, "_AUDIT_INTERVAL_S", 0)
    monkeypatch.setattr(drain, "_audit", lambda *_: lambda: 0)
    program, account, reported = Withholding(), Account(), []
    with drain.ticks(program, 0.001, account=account) as times:
        for missed, _ in zip((0, 3, 3, 5, 5), times, strict=False):
            reported.append(account.withheld)
            program.missed = missed
    assert reported == [0, 0, 3, 3, 5]
    assert capsys.readouterr().err.count("events lost") == 2
