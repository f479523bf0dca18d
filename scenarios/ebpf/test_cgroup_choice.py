"""`--cgroup`: sockets of a cgroup and of those below it, and no others, also if another process runs at the event."""

import subprocess
import sys
from contextlib import contextmanager
from uuid import uuid4

import pytest
from support.processes import parsed, refuses, watching

from lab import probes
from lab.choice import Choice
from lab.ebpf.program import Program
from lab.linux import cgroup
from lab.linux.netns import inside

PORT = 9999
SERVER = f"""
import socket, sys
with socket.create_server(("", {PORT})) as server:
    print(flush=True)
    for _ in range(2):
        server.accept()[0].makefile().read()
"""
CLIENT = """
import os, pathlib, socket, sys
pathlib.Path(sys.argv[2]).write_text(str(os.getpid()))
sys.stdin.read()
with socket.create_connection((sys.argv[1], {port})) as it:
    it.sendall(b"some")
""".replace("{port}", str(PORT))


@contextmanager
def groups():
    """Create a cgroup with another one below it, for the block."""
    with cgroup.root() as root:
        outer = root / f"lab-test-{uuid4().hex[:8]}"
        inner = outer / "inner"
        inner.mkdir(parents=True)
        try:
            yield outer, inner
        finally:
            inner.rmdir()
            outer.rmdir()


def started(host, code, *words):
    """Start a program on a host."""
    command = [sys.executable, "-c", code, *words]
    return inside(host.name, lambda: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))


@pytest.mark.parametrize("tool", ["states", "rtt"])
def test_sockets_of_a_cgroup(net, tool):
    """Of two connections, only the client in the inner cgroup is shown, by the outer cgroup's name."""
    probes.require(tool)
    with Program.load(tool).attached(choice=Choice(cgroup=1)):
        pass  # this kernel tells the cgroup of a socket
    words = {"states": [], "rtt": ["--raw", "--by-connection"]}[tool]
    with groups() as (outer, inner):
        with (
            started(net.server, SERVER) as server,
            watching(tool, "--json", *words, "--cgroup", str(outer)) as output,
        ):
            server.stdout.readline()
            for procs in (inner / "cgroup.procs", "/dev/null"):
                with started(net.client, CLIENT, net.server.ipv4, str(procs)) as client:
                    client.stdin.close()
                    client.stdout.read()
            server.wait()
            net.quiesce()
        rows = parsed(output)
    assert {row["remote_port"] for row in rows} == {PORT}
    assert {row["netns"] for row in rows} == {net.client.inode}
    assert len({row["local_port"] for row in rows if row["local_port"]}) == 1
    if tool == "states":
        assert [row["newstate"] for row in rows][:3] == ["SYN_SENT", "ESTABLISHED", "FIN_WAIT1"]


def test_no_such_cgroup():
    """One sentence that says how to find the cgroups."""
    refuses(["states", "--cgroup", "nothing.slice"], "there is no cgroup `nothing.slice` of version 2")
