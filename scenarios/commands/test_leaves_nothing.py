"""No instance leaves a namespace, qdisc, BPF program, tracefs event, process or file, however it ends."""

import os
import signal
import subprocess
import sys

import pytest
from support.processes import NOTHING, belongings, end, lab_command, left_of, started

from lab.ebpf import attach
from lab.linux import instance
from lab.linux.netns import NAMED
from lab.network.topology import topology
from lab.recording.recorder import record

# A scenario that prints a line when its network and its probe are ready, and then sleeps.
SCENARIO = """
import time
from lab.recording.recorder import record
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse

def test_long(net, capsys):
    with record("states"), converse(net, Conversation(), pause=True) as demo:
        demo.await_pause()
        with capsys.disabled():
            print("ready", flush=True)
        time.sleep(60)
"""
# The same without pytest.
INTERRUPTIBLE = """
import signal, sys, time
from lab.recording.recorder import record
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse
from lab.network.topology import topology

signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
with topology() as net, record("states", "analyse"), converse(net, Conversation(), pause=True) as demo:
    demo.await_pause()
    print("ready", flush=True)
    time.sleep(60)
"""


def qdiscs():
    """Return the qdiscs of the machine's own interfaces."""
    return subprocess.run(["/usr/sbin/tc", "qdisc", "show"], capture_output=True, text=True, check=True).stdout


@pytest.fixture(autouse=True)
def same_qdiscs():
    """Require the same qdiscs before and after each of these tests."""
    before = qdiscs()
    yield
    assert qdiscs() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "term"])
def test_live_tool(number):
    """`lab states` ends with status 0 and detaches its programs."""
    with started(sys.executable, "-m", "lab", "states", ready="SKADDR") as process:
        held = belongings(process.pid)
        assert len(held["programs"]) >= 2
        assert end(process, number) == 0
    assert left_of(held) == NOTHING


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "term"])
def test_interrupted_instance(number):
    """An instance interrupted during a conversation removes everything."""
    with started(sys.executable, "-c", INTERRUPTIBLE, ready="ready") as process:
        held = belongings(process.pid)
        assert len(held["namespaces"]) == 3
        assert len(held["processes"]) == 3
        assert end(process, number) != 0
    assert left_of(held) == NOTHING


def test_demo(tmp_path):
    """Ctrl-C during `lab demo` leaves nothing."""
    environment = {**os.environ, "LAB_RESULTS": str(tmp_path)}
    with started(sys.executable, "-m", "lab", "demo", ready="half-close", env=environment) as process:
        held = belongings(process.pid)
        assert len(held["namespaces"]) == 3
        assert len(held["programs"]) >= 2
        assert end(process) == 130
    assert left_of(held) == NOTHING


def test_pytest(tmp_path):
    """Ctrl-C during a scenario leaves nothing."""
    scenario = tmp_path / "test_long.py"
    scenario.write_text(SCENARIO)
    environment = {**os.environ, "LAB_RESULTS": str(tmp_path / "results")}
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-c", "pyproject.toml", "--rootdir=.", str(scenario)]
    with started(*command, ready="ready", env=environment) as process:
        held = belongings(process.pid)
        assert len(held["namespaces"]) == 3
        assert len(held["processes"]) == 3
        assert end(process) == 2
    assert left_of(held) == NOTHING


def test_killed_instance_is_swept_by_the_next():
    """`kill -9` ends processes and programs at once; the next instance removes namespaces, events and the folder."""
    with started(sys.executable, "-c", INTERRUPTIBLE, ready="ready") as process:
        held = belongings(process.pid)
        assert bool(held["events"]) == (attach.mechanism() == "kprobe")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert left_of({**NOTHING, "processes": held["processes"], "programs": held["programs"]}) == NOTHING
    # The sweep may also come from another process of the suite that started earlier.
    assert lab_command("states", "--seconds", "0.1").returncode == 0
    assert left_of(held) == NOTHING


def test_running_instance_is_never_swept():
    """A new instance does not remove what belongs to a running one."""
    with started(sys.executable, "-c", INTERRUPTIBLE, ready="ready") as process:
        held = belongings(process.pid)
        assert held["instances"].isdisjoint(instance.sweep())
        assert lab_command("states", "--seconds", "0.1").returncode == 0
        assert all((NAMED / name).exists() for name in held["namespaces"])
        end(process)
    assert left_of(held) == NOTHING


def test_failure_inside():
    """An exception inside the block leaves nothing."""
    names = []

    def fail():
        with topology() as net, record("states"):
            names.extend([net.client.name, net.server.name, net.wire])
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert len(names) == 3
    assert not any((NAMED / name).exists() for name in names)


def test_two_networks_at_once():
    """Two networks of one process have different names, and each is complete."""
    with topology() as one, topology() as two:
        assert {one.client.name, one.server.name, one.wire}.isdisjoint({two.client.name, two.server.name, two.wire})
        assert len({*one.inodes, *two.inodes}) == 4
