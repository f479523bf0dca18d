"""Retransmissions that the wire causes by dropping frames of known numbers: each is one row, with what was sent."""

import errno
import socket
import time

import pytest
from support.handshakes import PORT
from support.processes import HUNG_S, ip
from support.stamped_sockets import FAMILY

from lab.linux.btf import Btf
from lab.linux.netns import inside
from lab.network.conditions import Conditions
from lab.network.relay import Relay
from lab.network.topology import topology
from lab.probes.retransmits.measure import Counter, kind_of, sent
from lab.recording.recorder import record
from lab.traffic.demo.conversation import Conversation
from lab.units import MS

both_versions = pytest.mark.parametrize("version", [4, 6])
NONE = Conditions()
SUBNET = {4: ("192.0.2.0/24",), 6: ("2001:db8::/64", "metric", "256")}


@pytest.fixture
def net():
    """Two hosts and a wire that keeps a log."""
    with topology(Relay()) as net:
        yield net


def rows_of(observed):
    return Counter().rows(observed.recording.events["retransmits"])


def lost(*numbers):
    """Return the conditions of a direction that drops these frames of TCP, counted from 1."""
    return Conditions(drop=numbers)


@both_versions
@pytest.mark.parametrize(
    ("to_server", "to_client", "what"),
    [
        (lost(1), NONE, "SYN"),
        (NONE, lost(1), "SYN-ACK"),
        (lost(3), NONE, "data"),
        (lost(3, 4), NONE, "data"),
        (lost(5), NONE, "FIN"),
    ],
)
def test_a_lost_segment(lab, version, to_server, to_client, what):
    """T4: the kind of segment that was lost is sent again, SYN-ACKs too; a lost SYN-ACK also makes the client repeat its SYN."""
    lab.net.conditions(to_server, to_client)
    observed = lab.converse(Conversation(), probes=["retransmits"], version=version)
    lab.judge("retransmits", observed)
    assert what in {kind_of(row) for row in rows_of(observed)}


@both_versions
def test_lost_again_and_again(lab, version):
    """The same segment, each time with a higher number."""
    lab.net.conditions(lost(3, 4, 5), NONE)
    observed = lab.converse(Conversation(), probes=["retransmits"], version=version)
    lab.judge("retransmits", observed)
    client = rows_of(observed)
    client = client[client["netns"] == lab.net.client.inode]
    assert len(set(client["seq"].tolist())) == 1
    assert client["times"].tolist() == list(range(1, len(client) + 1))
    assert len(client) >= 3


@both_versions
def test_a_long_reply(lab, version):
    """T3: a part of what is sent again is cut by the interface into several segments, and each counts."""
    lab.net.conditions(NONE, Conditions(loss=0.1, seed=3, delay_ns=2 * MS))
    observed = lab.converse(Conversation(reply_bits=8_000_000), probes=["retransmits"], version=version)
    lab.judge("retransmits", observed)
    assert len(rows_of(observed)) > 10


@both_versions
def test_without_loss(lab, version):
    """Nothing is sent again, and nothing is reported."""
    observed = lab.converse(Conversation(exchanges=5), probes=["retransmits"], version=version)
    lab.judge("retransmits", observed)
    assert observed.sent[0].retransmitted or not len(rows_of(observed))


@both_versions
def test_attempts_that_fail(net, version):
    """T1, T2: what cannot be sent is no retransmission. Linux 6.17 and later tell of the attempt, with its error."""
    address, family = (net.server.address(version), PORT), FAMILY[version]
    with (
        inside(net.server.name, lambda: socket.create_server(address, family=family)) as listener,
        inside(net.client.name, lambda: socket.socket(family)) as client,
        record("retransmits") as recorder,
    ):
        # The timer waits long enough for the routes to be removed before it expires.
        ip(net.client, f"-{version}", "route", "change", *SUBNET[version], "dev", "eth0", "rto_min", "1s")
        client.connect(address)
        with listener.accept()[0]:
            net.conditions(lost(*range(1, 9)), NONE)
            client.send(b"x")
            ip(net.client, f"-{version}", "route", "flush", "dev", "eth0")
            _await_timeouts(client, 1)
    rows = Counter().rows(recorder.recording.events["retransmits"])
    rows = rows[rows["netns"] == net.client.inode]
    assert len(sent(rows)) == 0
    told = Btf.of_kernel().tracepoint_args("tcp_retransmit_skb") > 2
    assert {errno.errorcode[error] for error in rows["error"]} == ({"EHOSTUNREACH"} if told else set())
    assert not rows["times"].any()


def _await_timeouts(sock, number):
    """Wait until the retransmission timer has expired this often (tcpi_retransmits)."""
    deadline = time.monotonic() + HUNG_S
    while sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[2] < number:
        assert time.monotonic() < deadline, "the retransmission timer did not expire"
        time.sleep(0.01)
