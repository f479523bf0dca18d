"""Owners in the probe `states`: the process that holds the socket's file, or unknown.

S9 and S13 are rows of the corpus of known wrong numbers in docs/truth.md.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.handshakes import PORT, connected, joining
from support.processes import HUNG_S, kill_sockets

from lab.linux.netns import inside
from lab.probes.states.measure import transitions
from lab.recording.recorder import record
from lab.tcp import State

both_versions = pytest.mark.parametrize("version", [4, 6])


@contextmanager
def child(function):
    """Run a function in a forked child during the block; yield the child's process id, and expect status 0 at the end."""
    pid = os.fork()
    if not pid:
        signal.alarm(HUNG_S)
        try:
            function()
        except BaseException:  # noqa: BLE001 (the forked child must not continue the suite)
            os._exit(1)
        os._exit(0)
    yield pid
    assert os.waitpid(pid, 0)[1] == 0


def owners(recorder, host):
    """Return the owner of each state that the sockets of a host entered, without listeners; None if unknown."""
    rows = transitions(recorder.recording.events["states"])
    mine = rows[(rows["netns"] == host.inode) & (rows["oldstate"] != State.LISTEN) & (rows["newstate"] != State.LISTEN)]
    return {State(row["newstate"]).name: int(row["tgid"]) or None for row in mine}


@both_versions
def test_ss_is_not_the_owner(net, version):
    """S9: `ss -K` holds the socket's lock while it ends the socket, and is not its owner."""
    with record("states") as recorder:
        with connected(net, version):
            kill_sockets(net.client, "dport", "=", f":{PORT}")
            kill_sockets(net.server, "state", "listening", "sport", "=", f":{PORT}")
        net.quiesce()
    assert owners(recorder, net.client) == {"SYN_SENT": os.getpid(), "ESTABLISHED": None, "CLOSE": None}
    rows = transitions(recorder.recording.events["states"])
    (ended,) = rows[(rows["netns"] == net.server.inode) & (rows["oldstate"] == State.LISTEN) & (rows["rport"] == 0)]
    assert (State(ended["newstate"]), int(ended["tgid"])) == (State.CLOSE, 0)


@both_versions
def test_changes_by_segments_have_no_owner(net, version):
    """S9: what the peer's segments change has no owner, also if the process's own system call processes them.

    The acknowledgement of a FIN comes while shutdown() still holds the socket.
    """
    with record("states") as recorder:
        with connected(net, version) as (client, server, _):
            server.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
            client.shutdown(socket.SHUT_WR)
            assert server.recv(1) == b""
        net.quiesce()
    opened, mine = {"ESTABLISHED": None}, os.getpid()
    assert owners(recorder, net.client) == {
        "SYN_SENT": mine, **opened, "CLOSE_WAIT": None, "LAST_ACK": mine, "CLOSE": None
    }  # fmt: skip
    assert owners(recorder, net.server) == {**opened, "FIN_WAIT1": mine, "FIN_WAIT2": None, "TIME_WAIT": None}


def test_a_worker_of_the_kernel_is_not_the_owner(net):
    """S9: a thread of the kernel opens and closes the second subflow of an MPTCP connection."""
    with record("states") as recorder:
        with joining(net):
            pass
        net.quiesce()
    rows = transitions(recorder.recording.events["states"])
    opened = rows[(rows["netns"] == net.client.inode) & (rows["newstate"] == State.SYN_SENT)]
    assert opened["tgid"].tolist() == [os.getpid(), 0]
    assert {row["comm"] for row in rows if row["tgid"] and row["netns"] in net.inodes} == {
        Path("/proc/self/comm").read_bytes().strip()
    }


def test_fork(net):
    """S13: the child that closes last owns the changes from then on. The parent's close() changes nothing."""

    def close_last():
        os.close(write)
        os.read(read, 1)  # the end: the parent has closed the socket
        client.close()

    with record("states") as recorder:
        with connected(net) as (client, server, _):
            read, write = os.pipe()
            with child(close_last) as pid:
                client.close()
                os.close(write)
                os.close(read)
            server.close()
        net.quiesce()
    assert owners(recorder, net.client) == {
        "SYN_SENT": os.getpid(),
        "ESTABLISHED": None,
        "FIN_WAIT1": pid,
        "FIN_WAIT2": pid,
        "TIME_WAIT": pid,
    }


def test_a_row_between_two_owners_has_none(net):
    """S13: after SCM_RIGHTS the peer closes first: CLOSE_WAIT has no owner, LAST_ACK has the receiver."""

    def receive():
        client.close()
        server.close()
        (descriptor,) = socket.recv_fds(there, 1, 1)[1]
        there.send(b"!")
        os.read(descriptor, 1)  # the end: the peer's FIN has come
        os.close(descriptor)

    with record("states") as recorder:
        here, there = socket.socketpair()
        with here, there, connected(net) as (client, server, _), child(receive) as pid:
            socket.send_fds(here, [b"?"], [client.fileno()])
            client.close()
            assert here.recv(1) == b"!"
            server.close()
        net.quiesce()
    assert owners(recorder, net.client) == {
        "SYN_SENT": os.getpid(),
        "ESTABLISHED": None,
        "CLOSE_WAIT": None,
        "LAST_ACK": pid,
        "CLOSE": pid,
    }


def test_process_and_thread_have_their_own_names(net):
    """S13: `comm` is the process's name also if a thread with a name of its own makes the system call."""
    identity = []

    def close(sock):
        identity.append(threading.get_native_id())
        Path(f"/proc/self/task/{identity[0]}/comm").write_text("closer", encoding="utf-8")
        sock.close()

    with record("states") as recorder:
        with connected(net) as (client, _, _):
            closer = threading.Thread(target=close, args=(client,))
            closer.start()
            closer.join()
        net.quiesce()
    rows = transitions(recorder.recording.events["states"])
    (row,) = rows[(rows["netns"] == net.client.inode) & (rows["newstate"] == State.FIN_WAIT1)]
    assert (row["comm"], row["thread"]) == (Path("/proc/self/comm").read_bytes().strip(), b"closer")
    assert (int(row["tgid"]), int(row["tid"])) == (os.getpid(), identity[0])


def test_inside_a_pid_namespace(net):
    """V5: PIDs are those of the namespace in which the tool runs, also of a process in a namespace below it.

    A process outside of it has none there.
    """
    code = """if True:
        import ctypes, os, socket, subprocess, sys
        read, write = os.pipe()
        words = [sys.executable, "-m", "lab", "states", "--json", "-D", sys.argv[2], "--ready-fd", str(write)]
        tool = subprocess.Popen(words, pass_fds=[write], stdout=subprocess.PIPE)
        assert os.read(read, 6) == b"ready\\n"
        socket.create_connection((sys.argv[1], int(sys.argv[2]))).close()
        ctypes.CDLL(None).unshare(0x20000000)  # CLONE_NEWPID
        if not (below := os.fork()):
            socket.create_connection((sys.argv[1], int(sys.argv[2]))).close()
            os._exit(0)
        os.waitpid(below, 0)
        print(os.getpid(), below, flush=True)
        sys.stdin.readline()
        tool.send_signal(2)
        print(tool.communicate(timeout=60)[0].decode(), end="")
    """
    command = ["nsenter", f"--net=/run/netns/{net.client.name}", "unshare", "--pid", "--fork", "--mount-proc"]
    listener = inside(net.server.name, lambda: socket.create_server((net.server.ipv4, PORT)))
    with listener:
        command += ["/usr/bin/env", "--default-signal=INT", sys.executable, "-c", code, net.server.ipv4, str(PORT)]
        inner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        pid, below = map(int, inner.stdout.readline().split())
        outside = inside(net.client.name, lambda: socket.create_connection((net.server.ipv4, PORT)))
        outside.close()
        out, _ = inner.communicate("\n", timeout=HUNG_S)
        for _ in range(3):
            listener.accept()[0].close()
    rows = [row for row in map(json.loads, out.splitlines()) if row.get("netns") == net.client.inode]
    own, nested, foreign = [pid] * 2, [below] * 2, [None] * 2
    assert [row["pid"] for row in rows if row["newstate"] in ("SYN_SENT", "FIN_WAIT1")] == own + nested + foreign
    assert pid < below < 10
