"""The bench on this machine: tools are read as they run, what the kernel counts of them is read, and Ctrl-C leaves nothing."""

import os
import subprocess
import sys

import pytest
from support.processes import belongings, end, lab_command, left_of, started

from lab.bench import tools
from lab.bench.load_generator import CHANGES_EACH, PORT, loopback
from lab.bench.run_time import Watch, counted
from lab.bench.tools import RefusedError, Scope, Tool, running
from lab.ebpf.recorder import record

OPENING = {"SYN_SENT", "SYN_RECV", "ESTABLISHED"}
CLOSING = {"FIN_WAIT1", "FIN_WAIT2", "CLOSE_WAIT", "LAST_ACK", "CLOSE"}
INTERRUPTED_FORK = """
import os, signal, sys
from lab.bench.forked import forked

signal.signal(signal.SIGINT, signal.default_int_handler)
os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGINT))
try:
    forked(print)
except KeyboardInterrupt:
    sys.exit(130)
"""


def tool(name):
    (found,) = [tool for tool in tools.every() if tool.name == name]
    return found


@pytest.mark.parametrize("name", ["lab states", "libbpf-tools tcpstates"])
def test_a_tool_is_read_as_it_runs(name):
    """Of twenty connections every kind of change is told, by ours and by a peer; the kernel may leave a program out for a few."""
    with loopback() as place, running(tool(name), Scope(place.client)) as run:
        place.connections(20)
        run.await_quiet()
        run.end()
        rows = [row for row in run.rows() if PORT in (row.lport, row.rport)]
    ours = [row for row in rows if row.laddr == "127.0.0.1"]
    # On older kernels, such as 6.1, a listener's child has no addresses yet when it comes to SYN_RECV.
    born = {row.newstate for row in rows if row.laddr == "0.0.0.0"}  # noqa: S104 (what a tool prints)
    assert {row.newstate for row in ours} | born >= OPENING | CLOSING
    assert 10 * CHANGES_EACH < len(ours) <= 20 * CHANGES_EACH


def test_a_refusal_is_the_tools_own():
    """A tool that ends before it observes is not waited for."""
    broken = Tool("broken", tools.STATES, lambda _: ["ls", "/nowhere/at/all"], lambda _: iter(()), ready="never said")
    with pytest.raises(RefusedError, match="No such file"), running(broken):
        pass


def test_run_time_is_counted():
    """That of a process's programs, and that of an empty one beside them, which counting alone costs time."""
    with loopback() as place, counted("inet_sock_set_state") as empty, record("states", lossy=True):
        watch = Watch(os.getpid(), empty)
        place.connections(100)
        cost = watch.cost()
    assert cost.empty.number > 50 * CHANGES_EACH
    assert cost.most_runs > 50 * CHANGES_EACH
    assert 0 < cost.counting_ns < cost.empty.time_ns


def test_interrupted():
    """Ctrl-C ends the bench and every tool that it runs."""
    with started(sys.executable, "-m", "lab", "bench", "--quick", "start", ready="start: ") as process:
        held = belongings(process.pid)
        assert end(process) == 130
    assert not any(left_of(held).values())


def test_no_interrupt_is_lost_to_a_fork():
    """Ctrl-C that comes while a process is made is not dropped with what Python does after a fork."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED_FORK], check=False)
    assert done.returncode == 130


def test_an_unknown_chapter():
    """It is named, with those that there are."""
    done = lab_command("bench", "speed")
    assert done.returncode == 2
    assert done.stderr.startswith("lab: there is no chapter `speed`: choose from accuracy")
