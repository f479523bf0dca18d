"""The command `lab packets`: lines, JSON Lines and CSV, capture files, modes, its end and its errors."""

import csv
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import datetime

import numpy as np
import pytest
from pyroute2 import IPRoute
from support.packet_taps import await_that, dumpcap, tshark
from support.processes import HUNG_S, NOTHING, belongings, end, lab_command, left_of, parsed, refuses, watching

from lab.linux.bpf import AttachType, ProgType, link_create, prog_load, returning
from lab.linux.netns import inside
from lab.linux.syscalls import owned
from lab.packet import distinct_bytes
from lab.probes.packets import text as packet_text
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse
from lab.units import MS, SECOND

XDP_PASS = 2
US = 1000  # the difference between the clocks is known to less
LINE = re.compile(
    r"Packet Data - src_ip: (\S+),  src_port: (\d+), dst_ip: (\S+),  dst_port: (\d+), timestamp\(us\): (\d+)"
)


def talk(net, conversation=None, **how):
    """Hold a conversation and return its connections after their end."""
    with converse(net, conversation or Conversation(hold_ns=5 * MS), **how) as demo:
        pass
    net.quiesce()
    return demo.connections


def carried(rows):
    """Return the number of distinct payload bytes of one direction."""
    return distinct_bytes(*(np.array([row[name] for row in rows], np.uint32) for name in ("seq", "payload_length")))


def xdp_of(host):
    """Return the id of the XDP program at a host's interface, or None."""
    command = ["nsenter", f"--net=/run/netns/{host.name}", "ip", "-json", "link", "show", "eth0"]
    (link,) = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return link["xdp"]["prog"]["id"] if "xdp" in link else None


@pytest.mark.parametrize("version", [4, 6])
def test_line(net, version):
    """Each packet is one line with the addresses and ports of the connection."""
    with watching("packets", "--netns", net.server.name) as output:
        (connection,) = talk(net, version=version)
    lines = [LINE.fullmatch(line) for line in output[1].splitlines()]
    assert len(lines) >= 5
    flow = connection.client.flow
    assert {line.groups()[:4] for line in lines} == {(flow.laddr, str(flow.lport), flow.raddr, str(flow.rport))}
    connect = connection.client.find("connect")
    assert connect.enter_ns // 1000 <= int(lines[0][5]) <= connect.exit_ns // 1000


def test_json(net):
    """Flags, sequence numbers and lengths are those of the connection, and the clock is named (L3)."""
    with watching("packets", "--json", "--netns", net.server.name) as output:
        (connection,) = talk(net)
    rows = parsed(output)
    assert [rows[0]["flags"], rows[1]["flags"]] == ["SYN", "ACK"]
    assert any(row["flags"] == "FIN,ACK" for row in rows)
    assert carried(rows) == 375
    assert {row["version"] for row in rows} == {4}
    assert rows[1]["seq"] == rows[0]["seq"] + 1
    assert all(row["frame_length"] >= 66 and row["vlan"] is None and not row["fragment"] for row in rows)
    assert rows[0]["time_ns"] <= connection.client.find("connect").exit_ns


def test_wall_clock(net):
    """L3: with --wall the table has Unix time. JSON has the wall clock as `time`, in UTC."""
    with (
        watching("packets", "--wall", "--netns", net.server.name) as shown,
        watching("packets", "--json", "--mode", "tc", "--netns", net.server.name) as output,
    ):
        before_ns = time.time_ns()
        talk(net)
        after_ns = time.time_ns()
    lines = [LINE.fullmatch(line) for line in shown[1].splitlines()]
    assert all(before_ns // 1000 <= int(line[5]) <= after_ns // 1000 for line in lines)
    times = [wall_ns_of(row["time"]) for row in parsed(output)]
    assert len(times) == len(lines) >= 5
    assert all(before_ns - US <= time <= after_ns + US for time in times)


def wall_ns_of(text):
    """Return a time of RFC 3339 as Unix time."""
    whole, fraction = text.removesuffix("Z").split(".")
    return int(datetime.fromisoformat(f"{whole}+00:00").timestamp()) * SECOND + int(fraction)


def test_csv(net):
    """CSV has the same rows."""
    with watching("packets", "--csv", "--netns", net.client.name) as output:
        talk(net)
    rows = list(csv.DictReader(io.StringIO(output[1])))
    assert rows[0]["flags"] == "SYN,ACK"
    assert {row["source_port"] for row in rows} == {"9999"}


def test_lines_are_in_the_order_of_time(net):
    """L1: lines are sorted by time, although packets arrive on several CPUs."""
    with watching("packets", "--json", "--netns", net.server.name) as output:
        talk(net, Conversation(exchanges=20), connections=40, concurrency=8)
    times = [row["time_ns"] for row in parsed(output)]
    assert len(times) > 40 * 20
    assert times == sorted(times)


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_modes(net, mode):
    """Both modes can be chosen and receive the same payload."""
    with watching("packets", "--json", "--mode", mode, "--netns", net.server.name) as output:
        talk(net)
    assert carried(parsed(output)) == 375


def test_loopback(net):
    """On the loopback each packet of both directions is printed once."""
    with watching("packets", "--json", "-i", "lo", "--netns", net.server.name, "--port", "7777") as output:
        with (
            inside(net.server.name, lambda: socket.create_server(("127.0.0.1", 7777))) as listener,
            inside(net.server.name, lambda: socket.create_connection(("127.0.0.1", 7777))) as client,
            listener.accept()[0] as child,
        ):
            client.sendall(b"to the server")
            assert child.recv(100) == b"to the server"
            child.sendall(b"back")
            assert client.recv(100) == b"back"
            client.shutdown(socket.SHUT_WR)
            assert child.recv(1) == b""
        net.quiesce()
    rows = parsed(output)
    assert [row["flags"] for row in rows][:3] == ["SYN", "SYN,ACK", "ACK"]
    assert [row["payload_length"] for row in rows if row["payload_length"]] == [13, 4]


def test_all(net):
    """F3: --all also prints frames without ports, with the reason. Without it their number is printed at the end.

    A packet of another port is none of them.
    """
    with (
        watching("packets", "--netns", net.server.name) as some,
        watching("packets", "--netns", net.client.name, "--all", "--json") as all_frames,
    ):
        for here, there in ((net.client, net.server), (net.server, net.client)):
            with inside(here.name, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
                sender.sendto(bytes(4000), (there.ipv4, 9999))
                sender.sendto(bytes(4), (there.ipv4, 7))
        net.quiesce()
    errors, lines = some
    assert len(lines.splitlines()) == 1
    unreadable = "packets not shown because their ports cannot be read: 2 later fragment (--all shows them)"
    assert errors == f"lab: {unreadable}\n"
    rows = [row for row in parsed(all_frames) if row["protocol"] == "UDP"]
    parts = [(9999, None), *2 * [(None, "later fragment")]]
    assert [(row["destination_port"], row["problem"]) for row in rows] == [*parts, (7, None)]
    assert packet_text.line(rows[1]).endswith("  (later fragment)")


def test_address(net):
    """Without ports, the packets of a peer are those of all its ports, and no others."""
    with watching("packets", "--json", "--netns", net.server.name, "--address", net.client.ipv6) as output:
        for peer, here in ((net.server.ipv4, net.client.ipv4), (net.server.ipv6, net.client.ipv6)):
            family = socket.AF_INET6 if ":" in peer else socket.AF_INET
            with inside(net.client.name, lambda family=family: socket.socket(family, socket.SOCK_DGRAM)) as sender:
                sender.bind((here, 0))
                sender.sendto(b"!", (peer, 9))
        net.quiesce()
    rows = [row for row in parsed(output) if row["protocol"] == "UDP"]
    assert [(row["source_address"], row["destination_port"]) for row in rows] == [(net.client.ipv6, 9)]


@pytest.mark.parametrize("version", [4, 6])
def test_capture(net, tmp_path, version):
    """--pcap writes the same packets as dumpcap, with all their numbers, in order of time."""
    mine, theirs = tmp_path / "mine.pcapng", tmp_path / "theirs.pcapng"
    ip = {4: "ip", 6: "ipv6"}[version]
    fields = [
        f"{ip}.src",
        "tcp.srcport",
        f"{ip}.dst",
        "tcp.dstport",
        "tcp.seq_raw",
        "tcp.ack_raw",
        "tcp.len",
        "tcp.flags",
    ]
    fields.append("frame.len")
    received = f"tcp.dstport == 9999 && {ip}.dst == {net.server.address(version)}"
    with dumpcap(net.server, theirs) as finish:
        with watching("packets", "--json", "--pcap", str(mine), "--netns", net.server.name) as output:
            talk(net, Conversation(exchanges=10, size_bits=80_000), connections=20, concurrency=1, version=version)
        rows = parsed(output)
        expected = finish(len(rows), received, fields)
    assert len(rows) > 20 * 10
    # Packets that two CPUs receive at the same time can pass XDP and dumpcap's tap in different orders.
    assert sorted(tshark(mine, "frame", fields)) == sorted(expected)
    stamps = [int(text.replace(".", "")) for (text,) in tshark(mine, "frame", ["frame.time_epoch"])]
    assert stamps == [wall_ns_of(row["time"]) for row in rows] == sorted(stamps)
    lengths = {(int(there), int(wire)) for there, wire in tshark(mine, "frame", ["frame.cap_len", "frame.len"])}
    assert all(there == min(wire, 256) for there, wire in lengths)
    assert any(wire > 256 for _, wire in lengths)


@contextmanager
def tool(*arguments):
    """Run the tool during the block; it is ready at the start of the block."""
    read, write = os.pipe()
    words = [sys.executable, "-m", "lab", "packets", "--ready-fd", str(write), *arguments]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pass_fds=[write], start_new_session=True
    )
    os.close(write)
    try:
        with os.fdopen(read) as ready:
            assert ready.readline() == "ready\n", process.stderr.read()
        yield process
    finally:
        process.kill()
        process.communicate()


def test_kill_loses_no_packet_and_detaches(net, tmp_path):
    """After `kill -9` the XDP program is detached, and every printed packet is in the capture."""
    path = tmp_path / "killed.pcapng"
    with tool("--json", "--pcap", str(path), "--netns", net.server.name) as process:
        held = belongings(process.pid)
        assert xdp_of(net.server) in held["programs"]
        talk(net)
        row = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        process.wait()
        rows = [row, *map(json.loads, process.stdout.read().splitlines())]
        await_that(lambda: xdp_of(net.server) is None)
    assert left_of({**NOTHING, "programs": held["programs"]}) == NOTHING
    sequence = [int(number) for (number,) in tshark(path, "tcp", ["tcp.seq_raw"])]
    assert sequence[: len(rows)] == [row["seq"] for row in rows]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "term"])
def test_ends_cleanly(net, number):
    """Ctrl-C and SIGTERM end the tool with status 0 and detach its program."""
    with tool("--netns", net.server.name) as process:
        held = belongings(process.pid)
        assert end(process, number) == 0
    assert xdp_of(net.server) is None
    assert left_of({**NOTHING, "programs": held["programs"]}) == NOTHING


def test_full_disk(net, tmp_path):
    """A full disk ends the capture after the last complete packet and is reported. Printing goes on."""
    subprocess.run(["/usr/bin/mount", "-t", "tmpfs", "-o", "size=16k", "none", str(tmp_path)], check=True)
    try:
        path = tmp_path / "small.pcapng"
        with watching("packets", "--json", "--pcap", str(path), "--netns", net.server.name) as output:
            talk(net, Conversation(exchanges=100))
        errors, lines = output
        assert "cannot be written" in errors
        assert "No space left on device" in errors
        *rows, account = (json.loads(line) for line in lines.splitlines())
        assert account["notes"] == [errors.strip().removeprefix("lab: ")]
        assert carried(rows) == 100 * 375
        written = [int(number) for (number,) in tshark(path, "tcp", ["tcp.seq_raw"])]
        assert 20 < len(written) < len(rows)
        assert written == [row["seq"] for row in rows][: len(written)]
        assert (
            "cut short"
            not in subprocess.run(["/usr/bin/capinfos", path], capture_output=True, text=True, check=False).stderr
        )
    finally:
        subprocess.run(["/usr/bin/umount", str(tmp_path)], check=True)


def test_removed_interface(net, tmp_path):
    """If the interface is removed, the tool reports it and exits with 2. The capture has every printed packet."""
    path = tmp_path / "gone.pcapng"
    with tool("--json", "--pcap", str(path), "--netns", net.server.name) as process:
        talk(net)

        def unplug():
            with IPRoute() as netlink:
                netlink.link("del", index=net.server.ifindex)

        inside(net.server.name, unplug)
        out, err = process.communicate(timeout=HUNG_S)
    assert process.returncode == 2
    assert "the interface `eth0` has gone" in err
    assert len(out.splitlines()) == len(tshark(path, "tcp", ["tcp.seq_raw"])) >= 5


@contextmanager
def their_xdp(host, how):
    """Attach an XDP program of another tool to a host's interface, by a BPF link or by netlink; yield its id."""
    program = prog_load(
        ProgType.XDP, returning(XDP_PASS), expected_attach_type=AttachType.XDP * (how == "link"), name="their_filter"
    )

    def attach(fd=program):
        if how == "link":
            return link_create(fd, host.ifindex, AttachType.XDP, 1 << 1)
        with IPRoute() as netlink:
            netlink.link("set", index=host.ifindex, xdp_fd=fd)
        return None

    with owned(program):
        link = inside(host.name, attach)
        try:
            yield xdp_of(host)
        finally:
            if link is not None:
                os.close(link)


@pytest.mark.parametrize("how", ["link", "netlink"])
def test_interface_with_an_xdp_program(net, how):
    """V3: an XDP program of another tool stays attached. The refusal says whose it is; --mode tc observes after it."""
    with their_xdp(net.server, how) as theirs:
        for mode in ("generic", "native"):
            process = refuses(
                ["packets", "--netns", net.server.name, "--mode", mode],
                f"lab: `eth0` has an XDP program already, `their_filter` (id {theirs}, ",
            )
            assert {"link": "attached by BPF link ", "netlink": "attached by netlink"}[how] in process.stderr
            assert f"held by process {os.getpid()} (" in process.stderr
            assert "observe the interface at TC, after that program (--mode tc)" in process.stderr
        with watching("packets", "--json", "--mode", "tc", "--netns", net.server.name) as output:
            talk(net)
        assert carried(parsed(output)) == 375
        assert xdp_of(net.server) == theirs


def test_interface_without_carrier(net):
    """An interface whose peer is down is refused with status 2."""

    def down():
        with IPRoute() as netlink:
            netlink.link("set", index=netlink.link_lookup(ifname="server")[0], state="down")

    inside(net.wire, down)
    process = lab_command("packets", "--netns", net.server.name)
    assert process.returncode == 2
    assert "has no carrier" in process.stderr


BAD = {
    "port out of range": (["--port", "70000"], "`70000` is not a port: give a number from 1 to 65535"),
    "port and all": (["--port", "80", "--all"], "leave out --port, or leave out --all"),
    "no such interface": (["-i", "nowhere"], "there is no interface `nowhere`"),
    "no such mode": (["--mode", "fast"], "invalid choice"),
    "native on loopback": (["-i", "lo", "--mode", "native"], "`lo` cannot have native XDP"),
    "capture in no folder": (
        ["-i", "lo", "--pcap", "/nowhere/x.pcapng"],
        "/nowhere/x.pcapng cannot be written (No such file",
    ),
    "capture that is a folder": (["-i", "lo", "--pcap", "/proc"], "(Is a directory): choose another file"),
    "capture on a full device": (["-i", "lo", "--pcap", "/dev/full"], "(No space left on device): choose another file"),
}


@pytest.mark.parametrize(("arguments", "sentence"), BAD.values(), ids=BAD)
def test_bad_input(net, arguments, sentence):
    """Bad input gives one sentence and exit status 2."""
    process = lab_command("packets", "--netns", net.server.name, *arguments)
    assert process.returncode == 2, process.stderr
    assert sentence in process.stderr
    assert "Traceback" not in process.stderr
    assert process.stdout == ""


def test_seconds_end_it(net):
    """`--seconds` ends the tool with status 0."""
    assert lab_command("packets", "--netns", net.server.name, "--seconds", "0.2").returncode == 0


def test_help_has_an_example():
    """The help has the meaning of the columns and examples."""
    text = lab_command("packets", "--help").stdout
    assert "lab packets -i lo --port 80 --json" in text
    assert "timestamp(us)" in text
