"""The command `lab duration`: its lines, file and picture, and its errors."""

import csv
import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from pyroute2 import IPRoute
from support.processes import HUNG_S, ends, lab_command, parsed, refuses, watching

from lab.linux.netns import inside
from lab.probes.duration.statistics_file import read_durations
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse
from lab.units import MS

LINE = re.compile(r" *(\S+):(\d+) +-> +(\S+):(\d+) +\| Duration: (\d+\.\d{9}|-) +s(?: \| (.*))?")
NOBODY = "192.0.2.77"


def talk(net, connections=1, version=4, **conversation):
    """Hold conversations; return the connections."""
    how = {"hold_ns": 20 * MS, "linger_ns": 10 * MS} | conversation
    with converse(net, Conversation(**how), connections=connections, version=version) as demo:
        pass
    net.quiesce()
    return demo.connections


def lines_of(output):
    """Return the fields of each line below the header, and the text of standard error."""
    errors, text = output
    return [LINE.fullmatch(line).groups() for line in text.splitlines()[1:]], errors


def within(connection, duration_ns):
    """Return true if a duration is in the bracket; the client has to close first, the server to read the end."""
    connect, close = connection.client.find("connect"), connection.client.find("close")
    read_end = next(call for call in connection.server.calls if call.name == "recv" and not call.result)
    return close.enter_ns - connect.exit_ns <= duration_ns <= read_end.exit_ns - connect.enter_ns


@contextmanager
def running(host, *arguments, prefix=()):
    """Run the tool on a host's interface, optionally through the command `prefix`; yield the attached process."""
    read, write = os.pipe()
    words = [sys.executable, "-m", "lab", "duration", "--netns", host.name, "--ready-fd", str(write), *arguments]
    process = subprocess.Popen(
        [*prefix, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=(write,), text=True
    )
    os.close(write)
    try:
        with os.fdopen(read) as ready:
            assert ready.readline() == "ready\n", process.stderr.read()
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("version", [4, 6])
def test_the_line(net, version):
    """The line has client, server and nine decimals, and no remark if there was nothing unusual."""
    with watching("duration", "--netns", net.client.name) as output:
        (connection,) = talk(net, version=version)
    (found,), errors = lines_of(output)
    flow = connection.client.flow
    bracketed = [f"[{address}]" if version == 6 else address for address in (flow.laddr, flow.raddr)]
    assert found[:4] == (bracketed[0], str(flow.lport), bracketed[1], str(flow.rport))
    assert within(connection, int(found[4].replace(".", "")))
    assert found[5] is None
    assert not errors
    if version == 4:
        pattern = r" {6}192\.0\.2\.1:\d{5} -> {7}192\.0\.2\.2:9999  \| Duration: \d\.\d{9}  s"
        assert re.fullmatch(pattern, output[1].splitlines()[1])


def test_json_matches_the_logs_of_the_applications(net):
    """Every field matches the logs; unknown values are null."""
    with watching("duration", "-i", "eth0", "--json", "--netns", net.server.name) as output:
        (connection,) = talk(net, how="shutdown")
        (reset,) = talk(net, how="rst", closer="server")
    first, second = parsed(output)
    assert ends(first, "client", "server") == connection.client.flow
    assert (first["ended"], first["closed_first"], first["interface"]) == ("fin", "client", "eth0")
    assert connection.client.find("connect").enter_ns <= first["start_ns"] <= connection.client.find("connect").exit_ns
    assert first["second_fin_ns"] - first["duration_ns"] >= 10 * MS
    assert (first["syn_retransmissions"], first["fin_retransmissions"], first["vlan"]) == (0, 0, None)
    assert (second["ended"], second["closed_first"], second["second_fin_ns"]) == ("rst", "server", None)
    assert second["client_port"] == reset.client.flow.lport


def test_csv(net):
    """CSV has the same rows."""
    with watching("duration", "--csv", "--netns", net.client.name) as output:
        talk(net, connections=3)
    rows = list(csv.DictReader(io.StringIO(output[1])))
    assert [row["ended"] for row in rows] == ["fin"] * 3
    assert {row["vlan"] for row in rows} == {""}


def test_remarks(net):
    """D2: a refusal and a RST have a remark; with --verbose, FINs have one too."""
    with (
        watching("duration", "--netns", net.client.name) as output,
        watching("duration", "--netns", net.client.name, "--verbose") as verbose,
    ):
        talk(net)
        talk(net, how="rst")
        with converse(net, Conversation(), serve=False):
            pass
    assert [line[5] for line in lines_of(output)[0]] == [None, "rst by client", "refused"]
    remarks = [line[5] for line in lines_of(verbose)[0]]
    assert re.fullmatch(r"fin by client, second fin after \d\.\d{9} s", remarks[0])
    assert remarks[1:] == ["rst by client", "refused"]


def test_filters(net):
    """The port filters keep only connections with these ports and roles."""
    with (
        watching("duration", "--netns", net.client.name, "--dport", "9999") as server_port,
        watching("duration", "--netns", net.client.name, "--dport", "80", "443") as other_ports,
        watching("duration", "--netns", net.client.name, "--sport", "9999") as client_port,
    ):
        talk(net)
    assert [len(lines_of(output)[0]) for output in (server_port, other_ports, client_port)] == [1, 0, 0]


def test_opened_before_and_still_open(net):
    """L4: a connection that was open before has an unknown start. Open ones are counted at the end, or listed."""
    with converse(net, Conversation(), pause=True) as demo:
        demo.await_pause()
        with watching("duration", "--netns", net.client.name) as before:
            demo.resume()
            net.quiesce()
    assert [line[4:] for line in lines_of(before)[0]] == [("-", "start not seen")]
    address = (net.server.ipv4, 9999)
    with inside(net.server.name, lambda: socket.create_server(address)):
        with (
            watching("duration", "--netns", net.client.name) as counted,
            watching("duration", "--netns", net.client.name, "--open") as listed,
        ):
            client = inside(net.client.name, lambda: socket.create_connection(address))
        with client:
            flow = [*client.getsockname(), *address]
    assert lines_of(counted) == ([], "lab: connections still open: 1 (--open lists them)\n")
    ((*ends, duration, remark),) = lines_of(listed)[0]
    assert (ends, duration, remark) == ([str(part) for part in flow], "-", "open")


def test_half_closed_at_the_end(net):
    """D3: if one side has closed, the duration is to its FIN, and the line says that the other side is open."""
    address = (net.server.ipv4, 9999)
    with (
        inside(net.server.name, lambda: socket.create_server(address)) as listener,
        watching("duration", "--netns", net.client.name, "--open") as output,
    ):
        times_ns = [time.monotonic_ns()]
        client = inside(net.client.name, lambda: socket.create_connection(address))
        times_ns.append(time.monotonic_ns())
        server, _ = listener.accept()
        times_ns.append(time.monotonic_ns())
        client.shutdown(socket.SHUT_WR)
        assert server.recv(1) == b""
        times_ns.append(time.monotonic_ns())
    with client, server:
        ((*_, duration, remark),) = lines_of(output)[0]
    assert remark == "fin by client, open"
    assert times_ns[2] - times_ns[1] <= int(duration.replace(".", "")) <= times_ns[3] - times_ns[0]


def test_no_answer_is_reported_while_it_runs(net):
    """D2: an attempt without an answer is reported when --syn-timeout has passed, while the tool runs."""
    with inside(net.client.name, IPRoute) as netlink:
        netlink.neigh("add", dst=NOBODY, lladdr=net.server.mac, ifindex=net.client.ifindex, state="permanent")
    with (
        running(net.client, "--syn-timeout", "100ms") as process,
        inside(net.client.name, socket.socket) as client,
    ):
        client.settimeout(0)
        client.connect_ex((NOBODY, 9999))
        process.stdout.readline()
        found = LINE.fullmatch(process.stdout.readline().rstrip("\n"))
        assert found.groups()[2:] == (NOBODY, "9999", "-", "timeout")
        assert process.poll() is None


def test_output_file(net, tmp_path):
    """The printed lines are appended to the lines that the file has already."""
    path = tmp_path / "statistics.dat"
    printed = ""
    for _ in range(2):
        with watching("duration", "--netns", net.client.name, "--output", str(path)) as output:
            talk(net, connections=10)
        printed += output[1].partition("\n")[2]
    assert path.read_text() == printed
    assert printed.count("\n") == 20


def test_a_crash_loses_no_line(net, tmp_path):
    """After SIGKILL every printed line is in the file, complete."""
    path = tmp_path / "statistics.dat"
    with running(net.client, "--output", str(path)) as process:
        talk(net, connections=20)
        printed = [process.stdout.readline() for _ in range(1 + 20)][1:]
        process.send_signal(signal.SIGKILL)
    assert path.read_text() == "".join(printed)
    assert len(list(read_durations(path))) == 20


def test_a_full_disk(net):
    """A full disk is reported once; every line is printed, and the status is 0."""
    with watching("duration", "--netns", net.client.name, "--output", "/dev/full") as output:
        talk(net, connections=5)
        talk(net, connections=5)
    lines, errors = lines_of(output)
    assert len(lines) == 10
    assert errors.count("cannot take more lines (No space left on device)") == 1
    assert "lines missing from /dev/full: 10" in errors


def test_a_disk_that_becomes_full(net, tmp_path):
    """If the disk becomes full, the file has complete lines until then, and the missing ones are counted."""
    mount = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=4k tmpfs "$0" && exec "$@"', str(tmp_path)]
    with running(net.client, "--output", str(tmp_path / "statistics.dat"), prefix=mount) as process:
        talk(net, connections=100, exchanges=0)
        printed = [process.stdout.readline() for _ in range(1 + 100)][1:]
        with open(f"/proc/{process.pid}/root{tmp_path}/statistics.dat", encoding="utf-8") as file:  # noqa: PTH123 (in its mount namespace)
            text = file.read()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=HUNG_S)
    assert process.returncode == 0, errors
    whole = [line for line in text.splitlines(keepends=True) if line in printed]
    assert whole == printed[: len(whole)]
    assert len(whole) >= 4096 // len(printed[0]) - 1
    assert errors.count("cannot take more lines") == 1
    missing = int(re.search(r"statistics.dat: (\d+)$", errors, re.MULTILINE)[1])
    assert len(whole) + missing == 100
    assert len(text) == 4096


def test_picture(net, tmp_path):
    """The histogram is drawn at the end, and again from the file, without privileges."""
    path, now, later = tmp_path / "statistics.dat", tmp_path / "now.svg", tmp_path / "later.svg"
    with watching("duration", "--netns", net.client.name, "--output", str(path), "--plot", str(now)) as output:
        talk(net, connections=20)
    assert not output[0]
    tmp_path.chmod(0o777)
    unprivileged = ["/usr/bin/unshare", "--user", "--map-user=65534", sys.executable, "-m", "lab", "duration"]
    drawn = subprocess.run(
        [*unprivileged, "--plot", later, "--from", path], capture_output=True, text=True, timeout=HUNG_S, check=False
    )
    assert (drawn.returncode, drawn.stderr) == (0, "")
    bars = [re.search(r'<g id="patch_3">.*?</g>', picture.read_text(), re.DOTALL)[0] for picture in (now, later)]
    assert re.search(r' d="(.*?)"', bars[0], re.DOTALL)[1] == re.search(r' d="(.*?)"', bars[1], re.DOTALL)[1]


def test_picture_without_a_reader(net, tmp_path):
    """The reader of the output goes away, as `head` does: the tool ends, and what it has seen is drawn."""
    picture = tmp_path / "graph.png"
    with running(net.client, "--plot", str(picture)) as process:
        process.stdout.readline()
        process.stdout.close()
        talk(net, connections=3)
        assert process.wait(HUNG_S) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_interface_that_disappears(net, tmp_path):
    """If the interface is deleted, the tool prints, writes and draws the rows from before and ends with status 2."""
    path, picture = tmp_path / "statistics.dat", tmp_path / "graph.png"
    with running(net.client, "--output", str(path), "--plot", str(picture)) as process:
        talk(net, connections=3)
        with inside(net.client.name, IPRoute) as netlink:
            netlink.link("del", index=net.client.ifindex)
        out, errors = process.communicate(timeout=HUNG_S)
    assert process.returncode == 2
    assert "the interface `eth0` has gone" in errors
    assert "Traceback" not in errors
    assert out.count("Duration: ") == 3
    assert out.endswith(path.read_text())
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_interface_without_carrier(net):
    """An interface that is down is an error with status 2 and one sentence."""
    with inside(net.client.name, IPRoute) as netlink:
        netlink.link("set", index=net.client.ifindex, state="down")
    process = lab_command("duration", "-i", "eth0", "--netns", net.client.name, "--seconds", "1")
    assert process.returncode == 2
    assert "it is down: set it up" in process.stderr


BAD = {
    "no such interface": (["-i", "nowhere0"], "there is no interface `nowhere0`"),
    "file in no folder": (["-i", "lo", "--output", "/nowhere/statistics.dat"], "cannot be written (No such file"),
    "folder as a file": (["-i", "lo", "--output", "/tmp"], "cannot be written (Is a directory)"),  # noqa: S108 (any)
    "from nothing": (["--plot", "graph.png", "--from", "/nowhere/statistics.dat"], "cannot be read (No such file"),
    "from without a picture": (["--from", "/dev/null"], "give --plot graph.png as well"),
    "from an empty file": (["--plot", "graph.png", "--from", "/dev/null"], "no duration is known"),
    "no picture": (["--plot", "graph.txt", "--from", "/dev/null"], "use a name that ends in .png, .svg or .pdf"),
    "no duration": (["--syn-timeout", "soon"], "`soon` is not a duration"),
    "no port": (["--dport", "http"], "`http` is not a port"),
}


@pytest.mark.parametrize(("arguments", "sentence"), BAD.values(), ids=BAD)
def test_bad_input(arguments, sentence, tmp_path):
    """Wrong arguments give one sentence on standard error, exit status 2, no output and no file."""
    refuses(["duration", *arguments, "--seconds", "1"], sentence, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_seconds():
    """`--seconds` ends the tool with status 0."""
    process = lab_command("duration", "-i", "lo", "--seconds", "0.2")
    assert process.returncode == 0, process.stderr
