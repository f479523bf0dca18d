"""Owners of sockets: the process that holds the socket, or unknown, never one that has left it.

S13 and V5 are rows of the corpus of known wrong numbers.
"""

import ctypes
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.analysed import PORT, analysed, connected, listener_in, of_host
from support.processes import HUNG_S, rows_in

PR_SET_NAME = 15


@pytest.mark.parametrize("way", ["inherited", "SCM_RIGHTS"])
def test_a_socket_that_another_process_gets(net, way):
    """S13: after the process that accepted has closed its descriptor, steps have the heir's PID, or none."""
    code = """if True:
        import socket, sys
        channel = socket.socket(fileno=int(sys.argv[1]))
        if sys.argv[2] == "inherited":
            mine = socket.socket(fileno=int(sys.argv[3]))
            channel.recv(1)
        else:
            mine = socket.socket(fileno=socket.recv_fds(channel, 1, 1)[1][0])
        channel.send(b"has it")
        channel.recv(1)
        assert mine.recv(9) == b"aaa"
        mine.send(b"bbbb")
        channel.send(b"answered")
        channel.recv(1)
        mine.close()
    """
    here, there = socket.socketpair()
    with analysed(net) as rows, connected(net) as (client, server), here, there:
        fds = [there.fileno(), server.fileno()]
        command = [sys.executable, "-c", code, str(fds[0]), way, str(fds[1])]
        process = subprocess.Popen(command, pass_fds=fds if way == "inherited" else fds[:1])
        if way == "inherited":
            here.send(b"1")
        else:
            socket.send_fds(here, [b"1"], [server.fileno()])
        assert here.recv(9) == b"has it"
        server.close()
        client.send(b"aaa")
        here.send(b"1")
        assert here.recv(9) == b"answered"
        assert client.recv(9) == b"bbbb"
        here.send(b"1")
        assert client.recv(9) == b""
        assert process.wait(HUNG_S) == 0
    mine = [row for row in of_host(rows, net.server) if row["remote_port"]]
    (left,) = [
        n for n, row in enumerate(mine) if row["step"] == "close" and row["returns"] and row["pid"] == os.getpid()
    ]
    assert {row["pid"] for row in mine[:left]} == {os.getpid()}
    first = next(n for n, row in enumerate(mine) if row["step"] == "receive")
    assert {row["step"] for row in mine[left + 1 : first]} >= {"arrived"}
    assert {row["pid"] for row in mine[left + 1 : first]} == {None}
    assert {row["pid"] for row in mine[first:]} == {process.pid}
    assert {"LAST_ACK", "FIN_WAIT1"} & {row["state"] for row in mine[first:]}


def test_names_of_threads(net):
    """S13: COMM is the name of the process; the name of the thread stands beside it."""

    def send(client):
        ctypes.CDLL(None).prctl(PR_SET_NAME, b"a\x1bworker\n", 0, 0, 0)
        client.send(b"a")

    with analysed(net) as rows, connected(net) as (client, _):
        thread = threading.Thread(target=send, args=(client,))
        thread.start()
        thread.join()
        tid = thread.native_id
    mine = of_host(rows, net.client)
    assert {row["comm"] for row in mine} == {Path("/proc/self/comm").read_text(encoding="utf-8").rstrip("\n")}
    assert {(row["pid"], row["tid"], row["thread"]) for row in mine if row["step"] == "send"} == {
        (os.getpid(), tid, "a\x1bworker\n")
    }


def test_inside_a_pid_namespace(net):
    """V5: PIDs are those of the namespace in which the tool runs, and `-p` takes one of them."""
    code = """if True:
        import os, socket, subprocess, sys
        read, write = os.pipe()
        tool = [sys.executable, "-m", "lab", "analyse", "client", "--json", "--ready-fd", str(write), "-p"]
        tools = [subprocess.Popen([*tool, str(os.getpid())], pass_fds=[write], stdout=subprocess.PIPE)]
        assert os.read(read, 6) == b"ready\\n"
        with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as client:
            client.send(b"a")
        tools[0].send_signal(2)
        print(os.getpid())
        print(tools[0].communicate(timeout=60)[0].decode(), end="")
    """
    command = ["nsenter", f"--net=/run/netns/{net.client.name}", "unshare", "--pid", "--fork", "--mount-proc"]
    with listener_in(net.server) as listener:
        command += ["/usr/bin/env", "--default-signal=INT", sys.executable, "-c", code, net.server.ipv4, str(PORT)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=HUNG_S, check=True)
        listener.accept()[0].close()
    pid, *lines = ended.stdout.splitlines()
    rows = rows_in("\n".join(lines))
    assert [row["step"] for row in rows if row["returns"]] == ["connect", "send", "close"]
    assert {row["pid"] for row in rows} == {int(pid)}
    assert {row["tid"] for row in rows} == {int(pid), None}
    assert int(pid) < 10
