"""The command `lab states`: its table, JSON Lines, CSV and filters."""

import csv
import io
import itertools
import os
import socket
import subprocess
import sys
from collections import defaultdict

import pytest
from support.processes import HUNG_S, end, ends, parsed, started, watching

from lab.linux.netns import inside
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse
from lab.units import MS

ACTIVE = ["SYN_SENT", "ESTABLISHED", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT"]
PASSIVE = ["SYN_RECV", "ESTABLISHED", "CLOSE_WAIT", "LAST_ACK", "CLOSE"]


def talk(net, **how):
    """Hold one conversation of a known length; return its connection."""
    with converse(net, Conversation(hold_ns=20 * MS, linger_ns=10 * MS), **how) as demo:
        pass
    net.quiesce()
    return demo.connections[0]


def test_json_matches_the_logs_of_the_applications(net):
    """Every field of a row matches the log of the socket's owner; S3: unknown values are null."""
    with watching("states", "--json", "--netns", net.client.name) as output:
        connection = talk(net)
    rows = parsed(output)
    assert [row["newstate"] for row in rows] == ACTIVE
    assert rows[0]["duration_ns"] is None
    # A segment caused the change to ESTABLISHED; no process can get the socket after close().
    pid, comm = connection.client.pid, connection.client.comm
    assert [row["pid"] for row in rows] == [pid, None, pid, pid, pid]
    assert [row["comm"] for row in rows] == [comm, None, comm, comm, comm]
    assert {ends(row) for row in rows[1:]} == {connection.client.flow}
    hold, close = connection.client.find("connect"), connection.client.find("close")
    assert close.enter_ns - hold.exit_ns <= rows[2]["duration_ns"] <= close.exit_ns - hold.enter_ns


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("side", ["-L", "-D", "--port"])
def test_port_filters_lose_no_row(net, side, version):
    """S4: a filter on the ephemeral port, local or remote, keeps every row, even SYN_SENT before the port is bound."""
    # The range has one port, so the port that the kernel binds in connect() is known.
    net.client.sysctl("ipv4/ip_local_port_range", "45001 45001")
    host = net.server if side == "-D" else net.client
    with watching("states", "--json", side, "45001", "--netns", host.name) as output:
        connection = talk(net, version=version)
    rows = parsed(output)
    assert connection.client.flow.lport == 45001
    assert [row["newstate"] for row in rows] == (PASSIVE if side == "-D" else ACTIVE)
    assert rows[0]["duration_ns"] is None
    assert all(row["duration_ns"] is not None for row in rows[1:])


def test_server_port_filters(net):
    """S4: -L keeps the server's rows, including its listener's; -D keeps the client's rows."""
    with (
        watching("states", "--json", "-L", "9999", "--netns", net.server.name) as local,
        watching("states", "--json", "-D", "9999", "--netns", net.client.name) as remote,
    ):
        talk(net)
    listener = ["LISTEN", "CLOSE"]
    states = sorted(row["newstate"] for row in parsed(local))
    assert states == sorted(PASSIVE + listener)
    assert [row["newstate"] for row in parsed(remote)] == ACTIVE


def test_filters_that_match_nothing(net):
    """Filters on another port and on the other IP version keep no row."""
    with (
        watching("states", "--json", "-L", "9998", "--netns", net.server.name) as port,
        watching("states", "--json", "-6", "--netns", net.client.name) as version,
    ):
        talk(net, version=4)
    assert parsed(port) == []
    assert parsed(version) == []


def test_table(net):
    """The table has the documented columns; unknown values are `-`."""
    with watching("states", "--netns", net.client.name, "--timestamp", "--wide") as output:
        connection = talk(net, version=6)
    head, *rows = output[1].splitlines()
    assert head.split() == (
        "TIME SKADDR C-PID C-COMM LADDR LPORT RADDR RPORT OLDSTATE -> NEWSTATE MS".split()  # noqa: SIM905 (as printed)
    )
    assert [row.split()[10] for row in rows] == ACTIVE
    assert rows[0].split()[-1] == "-"
    assert 20 <= float(rows[2].split()[-1]) < 10_000
    assert rows[2].split()[2:8] == [
        str(connection.client.pid),
        connection.client.comm,
        net.client.ipv6,
        str(connection.client.flow.lport),
        net.server.ipv6,
        "9999",
    ]


def test_csv(net):
    """CSV has a header line and the same rows; unknown values are empty."""
    with watching("states", "--csv", "--netns", net.client.name) as output:
        talk(net)
    rows = list(csv.DictReader(io.StringIO(output[1])))
    assert [row["newstate"] for row in rows] == ACTIVE
    assert rows[0]["duration_ns"] == ""


def test_seconds():
    """`--seconds` ends the tool with status 0."""
    command = [sys.executable, "-m", "lab", "states", "--seconds", "0.2"]
    assert subprocess.run(command, capture_output=True, timeout=HUNG_S, check=False).returncode == 0


def test_broken_pipe_is_no_error():
    """If the reader exits, such as `head`, the tool ends without a traceback."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "lab", "states", "--seconds", "1"]
    process = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=HUNG_S, check=False)
    os.close(write)
    assert process.stderr == ""


def test_a_bound_port_is_in_the_first_row(net):
    """A socket that was bound before connect() has its port in the row of SYN_SENT, while nothing else is known of it."""

    def attempt():
        sock = socket.socket()
        sock.bind((net.client.ipv4, 45999))
        sock.setblocking(False)  # noqa: FBT003 (it takes no keyword)
        sock.connect_ex((nobody, 9999))
        return sock

    nobody = net.server.ipv4.rpartition(".")[0] + ".99"
    words = (sys.executable, "-m", "lab", "states", "--netns", net.client.name)
    with started(*words, ready="SKADDR") as process, inside(net.client.name, attempt):
        row = process.stdout.readline().split()
        assert end(process) == 0
    assert row[3:10] == [net.client.ipv4, "45999", nobody, "9999", "CLOSE", "->", "SYN_SENT"]


def test_a_socket_that_moves_between_processors(net):
    """L1: the changes of a socket are in the rings of several processors. The rows are in order, and each continues the last."""
    cpus = sorted(os.sched_getaffinity(0))

    def turns():
        """Open, use and close connections, and change the processor before each call."""
        number = itertools.cycle(cpus)
        with socket.create_server((net.client.ipv4, 9999)) as listener:
            for _ in range(50):
                os.sched_setaffinity(0, {next(number)})
                client = socket.create_connection((net.client.ipv4, 9999))
                os.sched_setaffinity(0, {next(number)})
                accepted, _ = listener.accept()
                client.shutdown(socket.SHUT_WR)
                os.sched_setaffinity(0, {next(number)})
                accepted.close()
                client.close()

    with watching("states", "--json", "--port", "9999", "--netns", net.client.name) as output:
        try:
            inside(net.client.name, turns)
        finally:
            os.sched_setaffinity(0, cpus)
    rows = [row for row in parsed(output) if row["oldstate"] != "LISTEN" or row["newstate"] == "SYN_RECV"]
    times = [row["time_ns"] for row in rows]
    assert times == sorted(times)
    lives = defaultdict(list)
    for row in rows:
        if row["newstate"] != "LISTEN":
            lives[row["skaddr"]].append(row)
    for changes in lives.values():
        for before, after in itertools.pairwise(changes):
            if before["newstate"] not in ("CLOSE", "TIME_WAIT"):
                assert after["oldstate"] == before["newstate"]
                assert after["duration_ns"] is not None
    assert sum(row["newstate"] == "TIME_WAIT" for row in rows) == 50
