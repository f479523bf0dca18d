"""The command `lab rtt`: its groups, filters and output."""

import csv
import io
import os
import re
import signal
import socket
import struct
import sys
import threading
from contextlib import contextmanager

import pytest
from pyroute2 import IPRoute
from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_NODAD
from support.lockstep import conversing
from support.processes import HUNG_S, ends, lab_command, parsed, refuses, started, watching

from lab.ebpf.program import Program
from lab.linux.netns import inside
from lab.recording.recorder import record
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse

LOOPBACK = 1
PORT = 9999
IPV4_PEERS = ["127.1.0.1", "127.1.0.2"]
IPV6_PEERS = ["2001:db8:1::1", "2001:db8:1::2", "2001:db8:2::1"]  # two differ at the end, two in the middle


def talk(net, **how):
    """Hold one conversation with four requests; return its connection."""
    with converse(net, Conversation(exchanges=4), **how) as demo:
        pass
    net.quiesce()
    return demo.connections[0]


def alike():
    """Load the probe with all connections in one group, so that there is always room."""
    return Program.load("rtt", ("BY_LADDR=0", "BY_RADDR=0", "BY_PORTS=0"))


@contextmanager
def seeing(*arguments):
    """Run `lab rtt` during a block, with a single interval.

    A recording runs at the same time: if the kernel withholds events from the command's program, it also withholds them
    from the recording, which reports that.
    """
    with record(programs={"rtt": alike()}), watching("rtt", "--interval", "600", *arguments) as output:
        yield output


def send_from(peers, messages=3):
    """From each address, send this number of one-byte messages to a server in the calling thread's namespace."""
    reset = struct.pack("ii", 1, 0)  # close() sends a RST, so the ports are free at once
    with socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        for peer in peers:
            address = ("::1" if ":" in peer else "127.0.0.1", PORT)
            with socket.create_connection(address, source_address=(peer, 0)) as client, listener.accept()[0] as server:
                for _ in range(messages):
                    client.send(b"x")
                    server.recv(1)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)


@pytest.fixture
def host(net):
    """Return a host whose loopback interface has the addresses of several IPv4 and IPv6 peers."""

    def configure():
        with IPRoute() as netlink:
            for address in IPV6_PEERS:
                netlink.addr("add", index=LOOPBACK, address=address, prefixlen=128, flags=IFA_F_NODAD)

    inside(net.server.name, configure)
    return net.server


def test_one_histogram_for_each_peer(host):
    """R1: every IPv4 and IPv6 peer has its own histogram, with one IPv6 server socket for both."""
    peers = IPV4_PEERS + IPV6_PEERS
    with seeing("--json", "--raddr-hist", "--sport", str(PORT), "--netns", host.name) as output:
        inside(host.name, lambda: send_from(peers))
    rows = {row["remote_address"]: row for row in parsed(output)}
    assert set(rows) == set(peers)
    assert [rows[peer]["count"] for peer in peers] == [3] * len(peers)
    assert {row["netns"] for row in rows.values()} == {host.inode}
    assert {row["local_address"] for row in rows.values()} == {None}


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        (["--daddr", "127.1.0.1"], ["127.1.0.1"]),
        (["--daddr", "::ffff:127.1.0.2"], ["127.1.0.2"]),
        (["--daddr", "2001:db8:1::2"], ["2001:db8:1::2"]),
        (["--saddr", "127.0.0.1"], IPV4_PEERS),
        (["--saddr", "::1"], IPV6_PEERS),
        (["-4"], IPV4_PEERS),
        (["-6"], IPV6_PEERS),
        (["--dport", str(PORT)], []),
        (["--daddr", "127.1.0.3"], []),
    ],
)
def test_filters(host, filters, kept):
    """R1: a filter keeps exactly its connections. IPv4 over an IPv6 socket is IPv4, even written ::ffff:a.b.c.d."""
    sport = [] if "--dport" in filters else ["--sport", str(PORT)]
    with seeing("--json", "--raddr-hist", *sport, "--netns", host.name, *filters) as output:
        inside(host.name, lambda: send_from(IPV4_PEERS + IPV6_PEERS))
    peers = {row["remote_address"] for row in parsed(output)}
    assert peers == (set(kept) if sport else {"127.0.0.1", "::1"})


def test_one_histogram_for_each_local_address(host):
    """Each of the server's two addresses has one histogram with all of its connections."""
    with seeing("--json", "--laddr-hist", "--sport", str(PORT), "--netns", host.name) as output:
        inside(host.name, lambda: send_from(IPV4_PEERS + IPV6_PEERS))
    rows = {row["local_address"]: (row["count"], row["remote_address"]) for row in parsed(output)}
    assert rows == {"127.0.0.1": (3 * len(IPV4_PEERS), None), "::1": (3 * len(IPV6_PEERS), None)}


def test_10000_peers(net):
    """R2: 10,000 peers have 10,000 histograms, and no value is lost."""
    peers = [f"127.1.{number // 250}.{number % 250 + 1}" for number in range(10_000)]
    with seeing("--json", "--raddr-hist", "--sport", str(PORT), "--netns", net.server.name) as output:
        inside(net.server.name, lambda: send_from(peers, messages=1))
    rows = parsed(output)
    assert {row["remote_address"] for row in rows} == set(peers)
    assert [row["count"] for row in rows] == [1] * len(peers)


def test_json_of_a_connection(net):
    """A connection's row has its flow, exact statistics, and buckets with all values."""
    with seeing("--json", "--raw", "--by-connection", "--netns", net.client.name) as output:
        connection = talk(net)
    (row,) = parsed(output)
    assert ends(row) == connection.client.flow
    assert (row["kind"], row["netns"]) == ("rtt", net.client.inode)
    assert row["count"] == 5 == sum(bucket["count"] for bucket in row["buckets"])
    assert row["unclear"] == 0
    first, last = row["buckets"][0], row["buckets"][-1]
    assert first["low_us"] <= row["min_us"] <= first["high_us"]
    assert last["low_us"] <= row["max_us"] <= last["high_us"]
    assert row["min_us"] <= row["p50_low_us"] <= row["p50_high_us"] <= row["p99_high_us"] <= row["max_us"]
    assert 5 * row["min_us"] <= row["sum_us"] <= 5 * row["max_us"]


def test_intervals_add_up(net):
    """Each sample is counted in exactly one interval."""
    printed, exchanges = [], 0
    command = [sys.executable, "-m", "lab", "rtt", "--raw", "--netns", net.client.name, "--interval", "0.1"]
    with record(programs={"rtt": alike()}), started(*command, ready="each 0.1 s") as process:
        first = threading.Thread(target=lambda: printed.append(process.stdout.readline()))
        first.start()
        with conversing(net) as pair:
            while first.is_alive():  # until the first interval is printed
                pair.exchange(100)
                exchanges += 1
        net.quiesce()
        os.killpg(process.pid, signal.SIGINT)
        output = "".join([*printed, process.stdout.read()])
        assert process.wait(timeout=HUNG_S) == 0
    counts = [int(count) for count in re.findall(r"Cnt = (\d+)", output)]
    assert len(counts) > 1
    assert sum(counts) == exchanges + 1


def test_table(net):
    """The histogram has the format of BCC's tools, with bars of up to 40 stars."""
    arguments = ["--raddr-hist", "--show-ext", "--timestamp", "--netns", net.client.name]
    with seeing(*arguments) as output:
        talk(net, version=6)
    head, time, key, latency, total, quantiles, title, *lines = output[1].splitlines()
    assert head == "TCP smoothed RTT, each 600 s until Ctrl-C"
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{6}", time)
    assert key == f"Key: remote {net.server.ipv6} in netns {net.client.inode}"
    count = int(re.fullmatch(r"Latency = \d+\.\d{3} usecs, Cnt = (\d+)", latency)[1])
    assert re.fullmatch(r"Sum = \d+ usecs, Max = \d+ usecs", total)
    assert re.fullmatch(r"min \d+, p50 \d+ -> \d+, p99 \d+ -> \d+ usecs", quantiles)
    assert title == "     usecs               : count     distribution"
    bars = [re.fullmatch(r" *(\d+) -> (\d+) +: (\d+) +\|(\**) *\|", line) for line in lines[:-1]]
    assert sum(int(bar[3]) for bar in bars) == count
    assert max(len(bar[4]) for bar in bars) == 40
    assert bars[0].group(1, 2) == ("0", "1")
    assert bars[1].group(1, 2) == ("2", "3")


def test_milliseconds(net):
    """With --ms the bounds of the buckets are whole milliseconds; the first bucket is below 2 ms."""
    with (
        seeing("--ms", "--netns", net.client.name) as table,
        watching("rtt", "--interval", "600", "--ms", "--json", "--netns", net.client.name) as rows,
    ):
        talk(net)
    assert "     msecs               : count     distribution" in table[1].splitlines()
    (row,) = parsed(rows)
    for bucket in row["buckets"]:
        assert bucket["low_us"] % 1000 == (bucket["high_us"] + 1) % 1000 == 0
    assert row["buckets"][0]["low_us"] <= row["min_us"] <= row["buckets"][0]["high_us"]
    assert row["buckets"][-1]["low_us"] <= row["max_us"] <= row["buckets"][-1]["high_us"]


def test_csv(net):
    """CSV has the same values, with one column per bucket."""
    with seeing("--csv", "--raw", "--netns", net.client.name) as output:
        talk(net)
    (row,) = csv.DictReader(io.StringIO(output[1]))
    assert row["count"] == "5"
    assert sum(int(value) for name, value in row.items() if re.fullmatch(r"\d+-\d+_us", name)) == 5


def test_duration():
    """`--duration` is the same as `--seconds`, as in BCC's tcprtt."""
    assert lab_command("rtt", "--duration", "0.2").returncode == 0
    assert lab_command("rtt", "--seconds", "0.2").returncode == 0


BAD = {
    "no address": (["--saddr", "web"], "`web` is not an address: give an IPv4 or IPv6 address"),
    "no port": (["--dport", "http"], "`http` is not a port"),
    "no interval": (["--interval", "0"], "give a number of seconds from 0.1"),
    "two groupings": (["--laddr-hist", "--raddr-hist"], "not allowed with argument"),
    "no namespace": (["--netns", "nowhere"], "there is no network namespace `nowhere`"),
}


@pytest.mark.parametrize(("arguments", "sentence"), BAD.values(), ids=BAD)
def test_bad_input(arguments, sentence):
    """Wrong arguments give one sentence on standard error, exit status 2 and no output."""
    refuses(["rtt", *arguments], sentence)
