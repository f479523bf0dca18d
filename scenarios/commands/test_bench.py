"""The bench on this machine: output of running tools, run-time statistics, and Ctrl-C without leftovers."""

import os
import subprocess
import sys

import pytest
from support.processes import belongings, end, lab_command, left_of, started

from lab.bench import tools
from lab.bench.run_time import Watch, counted
from lab.judging.description import Description, Ready
from lab.judging.quantity import Quantity
from lab.judging.running import RefusedError, Scope, running
from lab.recording.recorder import record
from lab.traffic.load_generator import CHANGES_EACH, PORT, loopback

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
def test_a_tool_reports_every_kind_of_state_change(name):
    """Twenty connections give every kind of change, with our probe and a peer. The kernel may withhold a few events."""
    with loopback() as place, running(tool(name), Scope(place.client)) as run:
        place.connections(20)
        run.await_quiet()
        run.end()
        rows = [row for row in run.rows() if PORT in (row.get("lport"), row.get("rport"))]
    ours = [row for row in rows if row.get("laddr") == "127.0.0.1"]
    # On older kernels, such as 6.1, a listener's child has no addresses when it enters SYN_RECV.
    without_address = {row.get("newstate") for row in rows if row.get("laddr") == "0.0.0.0"}  # noqa: S104 (output of a tool)
    assert {row.get("newstate") for row in ours} | without_address >= OPENING | CLOSING
    assert 10 * CHANGES_EACH < len(ours) <= 20 * CHANGES_EACH


def test_a_refusal_has_the_tools_own_error():
    """A tool that ends before it observes raises at once, with its error message."""
    command = ["ls", "/nowhere/at/all"]
    broken = Description("broken", command, [Quantity("states")], ready=Ready(text="never said"))
    with pytest.raises(RefusedError, match="No such file"), running(broken):
        pass


def test_run_time_is_counted():
    """The statistics cover the process's programs and an empty program, whose time is the cost of the statistics."""
    with loopback() as place, counted("inet_sock_set_state") as empty, record("states", lossy=True):
        watch = Watch(os.getpid(), empty)
        place.connections(100)
        cost = watch.cost()
    assert cost.empty.number > 50 * CHANGES_EACH
    assert cost.most_runs > 50 * CHANGES_EACH
    assert 0 < cost.counting_ns < cost.empty.time_ns


def test_ctrl_c_ends_the_bench_and_its_tools():
    """After SIGINT the exit status is 130, and no process, namespace or program is left."""
    with started(sys.executable, "-m", "lab", "bench", "--quick", "start", ready="start: ") as process:
        held = belongings(process.pid)
        assert end(process) == 130
    assert not any(left_of(held).values())


def test_no_interrupt_is_lost_to_a_fork():
    """A SIGINT during fork() raises KeyboardInterrupt, although Python drops exceptions in at-fork handlers."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED_FORK], check=False)
    assert done.returncode == 130


def test_an_unknown_chapter():
    """The error names the unknown chapter and lists the known ones."""
    done = lab_command("bench", "speed")
    assert done.returncode == 2
    assert done.stderr.startswith("lab: unknown chapter `speed`: choose from accuracy")
