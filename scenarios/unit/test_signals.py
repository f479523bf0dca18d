"""Signals: the first one ends a program, whatever it interrupts, and later ones do not interrupt the end."""

import signal
import subprocess
import sys

import pytest

HEAD = """
import os, signal, sys, threading, time, weakref
from lab.signals import defer_signals, ending

class Thing: pass

def kill(number=signal.SIGINT):
    os.kill(os.getpid(), number)
"""


def run(body):
    """Run a program; return its exit status and what it printed."""
    # A suite that was started by nohup or in the background has signals ignored, and its children inherit that.
    command = ["/usr/bin/env", "--default-signal", sys.executable, "-c", HEAD + body]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout.split()


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, "interrupt"), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_the_first_signal_ends(number, status):
    """Each by its own exception."""
    body = f"""
try:
    with ending():
        kill({int(number)})
        time.sleep(10)
except KeyboardInterrupt:
    print("interrupt")
"""
    code, said = run(body)
    assert (said[0] if said else code) == status


def test_the_second_signal_does_not_interrupt_the_end():
    """What the first has begun to remove is removed."""
    body = """
try:
    with ending():
        try:
            kill()
        finally:
            kill(); kill(signal.SIGTERM)
            print("removed")
except KeyboardInterrupt:
    print("interrupt")
"""
    assert run(body) == (0, ["removed", "interrupt"])


@pytest.mark.parametrize(
    "discarding",
    ["keep = weakref.ref(thing, lambda _: kill())", "Thing.__del__ = lambda _: kill()"],
    ids=["weakref", "del"],
)
def test_a_discarded_exception_is_raised_again(discarding):
    """Python discards an exception that is raised in a weakref callback or in `__del__`."""
    body = f"""
thing = Thing()
{discarding}
begin = time.monotonic()
try:
    with ending():
        del thing
        time.sleep(10)
except KeyboardInterrupt:
    print(time.monotonic() - begin < 5)
"""
    assert run(body) == (0, ["True"])


def test_other_discarded_exceptions_are_reported():
    """As without."""
    body = """
Thing.__del__ = lambda _: 1 / 0
with ending():
    Thing()
"""
    done = subprocess.run([sys.executable, "-c", HEAD + body], capture_output=True, text=True, timeout=30, check=False)
    assert "ZeroDivisionError" in done.stderr


def test_an_ignored_hangup_stays_ignored():
    """The program was started by nohup."""
    body = """
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with ending():
    kill(signal.SIGHUP)
    print("goes on")
"""
    assert run(body) == (0, ["goes", "on"])


def test_deferred_signals_come_after_the_block():
    """Also those that another thread receives: the mask of this thread does not hold them off."""
    body = """
stop = threading.Event()
other = threading.Thread(target=stop.wait)
other.start()
try:
    with ending():
        with defer_signals():
            kill()
            time.sleep(0.1)
            print("whole")
        print("not reached")
except KeyboardInterrupt:
    print("interrupt")
stop.set()
"""
    assert run(body) == (0, ["whole", "interrupt"])


@pytest.mark.parametrize("block", ["ending()", "ending(interrupt=True)", "defer_signals()"])
def test_a_forked_child_is_ended_by_signals(block):
    """pyroute2 forks helpers and ends them by SIGTERM: they have none of the parent's handlers."""
    body = f"""
with {block}:
    ready, running = os.pipe()
    child = os.fork()
    if not child:
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.write(running, b"x")
        time.sleep(10)
        os._exit(0)
    os.read(ready, 1)
    os.kill(child, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(body) == (0, ["-15"])
