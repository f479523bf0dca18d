"""F7: egress is counted before the interface's queueing discipline, whose drops are shown beside it."""

import socket
import subprocess

import pytest
from support.mutants import totals_of
from support.packet_taps import await_that
from support.processes import parsed, watching

from lab.linux.netns import inside
from lab.linux.qdisc_statistics import Discipline, root_discipline
from lab.probes.flows.measure import Direction
from lab.recording.recorder import record
from lab.traffic.crafted.frames import datagrams

SENT, PORT = 1000, 4000
_SOL_PACKET, _PACKET_QDISC_BYPASS = 263, 20  # include/uapi/linux/if_packet.h


@pytest.fixture
def slow(net):
    """Give the client a queueing discipline with room for few packets; return a function that reads it when empty."""
    words = ["qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", "2mbit", "burst", "3000", "limit", "3000"]
    subprocess.run(["/usr/sbin/tc", "-n", net.client.name, *words], check=True)

    def read():
        return inside(net.client.name, lambda: root_discipline(net.client.ifindex))

    def drained():
        await_that(lambda: read().waiting == 0)
        return read()

    return drained


def send_many(net, number=SENT):
    """Send small datagrams to a port of the server that nobody reads."""
    with inside(net.client.name, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        for _ in range(number):
            sock.sendto(bytes(100), (net.server.ipv4, PORT))


def test_what_egress_counts(net, slow):
    """F7: packets at egress are those that arrive, and those that the discipline dropped."""
    before = slow()
    with record("flows", devices=net.devices) as recorder:
        send_many(net)
        drops = slow().dropped_since(before)
        net.quiesce()
    left, arrived = (
        totals_of(recorder.recording.totals["flows"], host, way)
        for host, way in ((net.client, Direction.EGRESS), (net.server, Direction.INGRESS))
    )
    left, arrived = (int(rows[rows["dport"] == PORT]["packets"].sum()) for rows in (left, arrived))
    assert 0 < drops < SENT
    assert (left, arrived) == (SENT, SENT - drops)


@pytest.mark.parametrize("delta", [[], ["--delta"]], ids=["total", "delta"])
def test_drops_beside_the_counts(net, slow, delta):
    """F7: the live tool shows the drops since its start, or of each interval with --delta."""
    send_many(net)
    before = slow()
    with watching("flows", "--json", "--interval", "0.3", *delta, "--netns", net.client.name) as output:
        send_many(net)
        first = slow()
        send_many(net, 500)
        last = slow()
    reports = {}
    for row in parsed(output):
        reports.setdefault(row["time_ns"], set()).add(row["qdisc_drops"])
    shown = [drops for report in reports.values() for drops in report]
    assert len(shown) == len(reports)
    assert (sum(shown) if delta else shown[-1]) == last.dropped_since(before) > first.dropped_since(before) > 0


def test_drops_below_the_table(net, slow):
    """F7: the table ends with the drops, if there are any."""
    with watching("flows", "--interval", "30", "--netns", net.client.name) as output:
        before = slow()
        send_many(net)
        drops = slow().dropped_since(before)
    assert output[1].splitlines()[-1] == f"{drops} of them dropped at egress by eth0's queueing discipline"


def test_bypass(net):
    """F7: frames that bypass the queueing discipline arrive, and are not counted where they leave."""
    frames = datagrams(range(3))
    with (
        inside(net.client.name, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as sock,
        record("flows", devices=net.devices) as recorder,
    ):
        sock.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        sock.bind(("eth0", 0))
        for frame in frames:
            sock.send(frame)
        net.quiesce()
    rows = recorder.recording.totals["flows"]
    rows = rows[rows["dport"] == 53]
    assert {(int(row["ifindex"]), int(row["direction"])) for row in rows} == {(net.server.ifindex, Direction.INGRESS)}
    assert rows["packets"].sum() == 3


def test_another_discipline():
    """F7: a discipline that replaces the first counts from 0, and a counter of 32 bits may wrap."""
    first = Discipline("tbf", 1, (1 << 32) - 5, 0)
    assert first._replace(drops=3).dropped_since(first) == 8
    assert first._replace(handle=2, drops=3).dropped_since(first) == 3
    assert first.dropped_since(None) == first.drops
