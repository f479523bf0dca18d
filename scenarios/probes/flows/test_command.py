"""The command `lab flows`: table, JSON Lines and CSV, by pair and by connection, and its errors."""

import csv
import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
from contextlib import contextmanager

import pytest
from pyroute2 import IPRoute
from support.processes import HUNG_S, ends, parsed, refuses, watching

from lab.linux.netns import inside
from lab.linux.tcp_counters import tcp_sent
from lab.traffic.crafted.frames import datagrams
from lab.traffic.crafted.send import send
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse
from lab.units import MS

TALK = Conversation(size_bits=8 * 100_000, hold_ns=20 * MS)


def talk(net, **how):
    """Hold one conversation to its end."""
    with converse(net, TALK, **how) as demo:
        pass
    net.quiesce()
    return demo.connections[0]


def is_payload(net, measured, sent=100_000):
    """Return true if the count is the sent bytes plus at most the retransmissions."""
    retransmitted = sum(tcp_sent(host.name).retransmitted for host in (net.client, net.server))
    return sent <= measured <= sent + retransmitted * 1500


def last_report(rows):
    """Return the TCP rows of the latest report; the kernel may send MLD reports on its own."""
    return [row for row in rows if row["time_ns"] == rows[-1]["time_ns"] and row["protocol"] == "TCP"]


@pytest.mark.parametrize("version", [4, 6])
def test_pairs(net, version):
    """Each direction is a row with the payload that the applications sent and the headers of each frame."""
    with watching("flows", "--json", "--netns", net.client.name) as output:
        talk(net, version=version)
    rows = last_report(parsed(output))
    client, server = net.client.address(version), net.server.address(version)
    assert {
        (row["source_address"], row["destination_address"], row["interface"], row["direction"]) for row in rows
    } == {
        (client, server, "eth0", "egress"),
        (server, client, "eth0", "ingress"),
    }
    least = 14 + {4: 20, 6: 40}[version] + 20
    for row in rows:
        assert is_payload(net, row["payload_bytes"])
        assert least * row["packets"] <= row["bytes"] - row["payload_bytes"] <= (least + 40) * row["packets"]
        assert row["first_ns"] < row["last_ns"]
    assert [row["packets"] for row in rows] == sorted((row["packets"] for row in rows), reverse=True)


@pytest.mark.parametrize("side", ["client", "server"])
def test_connections(net, side):
    """A connection is a row with ports, times and both directions; its source is the client, at either host."""
    host = getattr(net, side)
    with watching("flows", "--connections", "--json", "--mac", "--netns", host.name) as output:
        connections = [talk(net), talk(net)]
    rows = {row["source_port"]: row for row in last_report(parsed(output))}
    for connection in connections:
        row = rows[connection.client.flow.lport]
        assert ends(row, "source", "destination") == connection.client.flow
        assert is_payload(net, row["payload_bytes"])
        assert is_payload(net, row["reply_payload_bytes"])
        assert (row["source_mac"], row["destination_mac"]) == (net.client.mac, net.server.mac)
        assert row["direction"] == {"client": "egress", "server": "ingress"}[side]
        connect, close = (connection.client.find(name) for name in ("connect", "close"))
        assert connect.enter_ns <= row["first_ns"] <= connect.exit_ns
        assert close.enter_ns <= row["last_ns"]
    assert len(rows) == 2


def test_reports_since_the_start_and_of_each_interval(net):
    """Counts grow from report to report. With --delta each packet is in one report; the sums are equal."""
    options = ("--json", "--interval", "0.2", "--netns", net.client.name)
    with watching("flows", *options) as output, watching("flows", "--delta", *options) as delta:
        talk(net)
        talk(net)
    total = {row["direction"]: row["packets"] for row in last_report(parsed(output))}
    parts = [row for row in parsed(delta) if row["protocol"] == "TCP"]
    for direction, packets in total.items():
        assert sum(row["packets"] for row in parts if row["direction"] == direction) == packets
    sizes = [row["packets"] for row in parsed(output) if row["protocol"] == "TCP" and row["direction"] == "egress"]
    assert sizes == sorted(sizes)


def test_table(net):
    """The table has its columns, the largest row first, and bytes with a decimal unit."""
    with watching("flows", "--netns", net.client.name, "--top", "1", "--interval", "30") as output:
        talk(net)
    head, first, *rest = output[1].splitlines()
    assert head.split() == ["PROTOCOL", "SOURCE", "DESTINATION", "PACKETS", "BYTES", "INTERFACE", "DIRECTION"]
    assert re.fullmatch(r"TCP +192\.0\.2\.[12] +192\.0\.2\.[12] +\d+ +\d+\.\d kB eth0 +(in|e)gress", first)
    assert re.fullmatch(r"\.\.\. and \d more", rest[0])


def test_table_of_connections(net):
    """A line has ports, start, duration and both directions. Reports follow each other with an empty line between."""
    with watching("flows", "-c", "--netns", net.client.name, "--interval", "0.3") as output:
        connection = talk(net)
    reports = output[1].split("\n\n")
    (line,) = [line for line in reports[-1].splitlines() if line.startswith("TCP")]
    _, source, destination, start, duration, *_ = line.split()
    assert source == f"192.0.2.1:{connection.client.flow.lport}"
    assert destination == "192.0.2.2:9999"
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3}", start)
    connect, close = (connection.client.find(name) for name in ("connect", "close"))
    assert float(duration) >= (close.enter_ns - connect.exit_ns) // MS / 1e3


def test_csv(net):
    """CSV has a head line and the same rows; an unknown value is empty."""
    with watching("flows", "--csv", "--netns", net.client.name, "--interval", "30") as output:
        talk(net)
    rows = [row for row in csv.DictReader(io.StringIO(output[1])) if row["protocol"] == "TCP"]
    assert len(rows) == 2
    assert all(is_payload(net, int(row["payload_bytes"])) for row in rows)
    assert {row["vlan"] for row in rows} == {""}


@contextmanager
def ready(*arguments, **streams):
    """Start `lab flows` with these streams, and yield the process when it is ready."""
    read, write = os.pipe()
    command = [sys.executable, "-m", "lab", "flows", "--ready-fd", str(write), *arguments]
    process = subprocess.Popen(command, pass_fds=(write,), start_new_session=True, text=True, **streams)
    os.close(write)
    try:
        with os.fdopen(read) as pipe:
            assert pipe.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_terminal(net):
    """On a terminal a report replaces the previous one and has only as many rows as fit."""
    controller, terminal = pty.openpty()
    environment = {**os.environ, "LINES": "10", "COLUMNS": "120"}
    options = ("-c", "--interval", "60", "--netns", net.client.name, "-i", "lo")
    with (
        open(controller, "rb", buffering=0) as screen,  # noqa: PTH123 (a descriptor, no path)
        ready(*options, stdout=terminal, stderr=terminal, env=environment) as process,
    ):
        os.close(terminal)
        send(net.client.name, datagrams(range(20)), "lo")
        process.send_signal(signal.SIGINT)
        shown = b""
        while b"more\r\n" not in shown:
            shown += screen.read(1 << 16)
        assert process.wait(timeout=HUNG_S) == 0
    *_, last = shown.decode().split("\033[H\033[J")
    assert len(last.splitlines()) <= 10
    assert "... and 14 more" in last


def test_removed_interface(net):
    """If the interface is removed, the counts so far are printed, then one error, with exit status 2."""
    options = ("--json", "--interval", "60", "--netns", net.client.name)
    with ready(*options, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        send(net.client.name, datagrams(range(3)))
        with IPRoute(netns=net.client.name) as netlink:
            netlink.link("del", index=net.client.ifindex)
        out, err = process.communicate(timeout=HUNG_S)
    assert process.returncode == 2
    assert err == "lab: the interface `eth0` has gone: start again when it is back\n"
    assert sum(json.loads(line)["packets"] for line in out.splitlines() if '"UDP"' in line) == 3


def test_full(net):
    """F4: packets of flows beyond 65536 in an interval are counted as lost, exactly."""
    with watching(
        "flows", "--json", "--connections", "--netns", net.client.name, "-i", "lo", "--interval", "60"
    ) as output:
        send(net.client.name, datagrams(range(66_000)), "lo")
    errors, rows = output
    assert errors == f"lab: {66_000 - 65_536} events lost: the output is not complete\n"
    *rows, account = map(json.loads, rows.splitlines())
    assert len(rows) == 65_536
    assert (account["kind"], account["events_without_room"]) == ("account", 66_000 - 65_536)


BAD = {
    "no such interface": (["-i", "nowhere0"], "there is no interface `nowhere0`"),
    "no such namespace": (["--netns", "nowhere"], "there is no network namespace `nowhere`"),
    "no lines": (["-i", "lo", "--top", "0"], "`0` is not a number of rows: give 1 or more"),
    "no number of lines": (["-i", "lo", "--top", "many"], "`many` is not a number of rows"),
    "no interval": (["-i", "lo", "--interval", "often"], "`often` is not an interval"),
    "an interval too short": (["-i", "lo", "--interval", "0.01"], "give a number of seconds from 0.1"),
}


@pytest.mark.parametrize(("arguments", "sentence"), BAD.values(), ids=BAD)
def test_bad_input(arguments, sentence):
    """Wrong arguments give one sentence on standard error, exit status 2 and no output."""
    refuses(["flows", *arguments], sentence)


def test_interface_with_other_frames(net):
    """A device whose frames are neither Ethernet nor IP is refused."""

    def make():
        tun = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"tun0", 0x1001))  # TUNSETIFF: IFF_TUN | IFF_NO_PI
        fcntl.ioctl(tun, 0x400454CD, 280)  # TUNSETLINK: ARPHRD_CAN
        with IPRoute() as netlink:
            netlink.link("set", index=netlink.link_lookup(ifname="tun0")[0], state="up")
        return tun

    tun = inside(net.client.name, make)
    try:
        refuses(
            ["flows", "--netns", net.client.name, "-i", "tun0"],
            "has frames that are neither Ethernet nor IP (ARPHRD 280): give another interface",
        )
    finally:
        os.close(tun)
