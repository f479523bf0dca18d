"""Packets that the kernel gives up for a reason that the scenario makes: each is one row, with that reason."""

import os
import socket
import subprocess
import time
from contextlib import contextmanager
from socket import AF_PACKET, SOCK_RAW

import numpy as np
import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from support.crowd import PORT, client_of, crowd, listening
from support.processes import HUNG_S

from lab.linux.grace_period import await_backlogs
from lab.linux.netns import inside
from lab.linux.tcp_counters import counters
from lab.network.conditions import Conditions
from lab.network.relay import Relay
from lab.network.topology import topology
from lab.packet import ACK, FIN, PSH, SYN
from lab.probes.drops.measure import with_size
from lab.probes.drops.reasons import NO_LOSS, reason_of
from lab.recording.recorder import record
from lab.traffic.demo.conversation import Conversation

ETH_P_IP, ETH_P_IPV6, ETH_P_EXPERIMENTAL = 0x0800, 0x86DD, 0x88B5
both_versions = pytest.mark.parametrize("version", [4, 6])


def rows_of(recording, host, *reasons):
    """Return the rows of a host with one of these reasons, by default with any that is a loss."""
    rows = with_size(recording.events["drops"])
    rows = rows[rows["netns"] == host.inode]
    names = [reason_of(row) for row in rows]
    return rows[[name in reasons if reasons else name not in NO_LOSS for name in names]]


@contextmanager
def recorded(net):
    """Record during the block, which closes its sockets; yield the recorder."""
    with record("drops") as recorder:
        yield recorder
        net.quiesce()


@both_versions
def test_a_conversation_without_loss(lab, version):
    """Nothing is given up that is a loss."""
    observed = lab.converse(Conversation(exchanges=3), probes=["drops"], version=version)
    lab.judge("drops", observed)
    for host in (lab.net.client, lab.net.server):
        assert not len(rows_of(observed.recording, host))


@both_versions
def test_a_fin_for_a_minisock(net, version):
    """The kernel frees without a reason a FIN that has done its work (tcp_v4_rcv()): it is not reported."""
    with recorded(net) as recorder, listening(net, version) as listener, client_of(net, version) as client:
        client.connect((net.server.address(version), PORT))
        with listener.accept()[0]:
            client.close()
            await_backlogs(hops=net.description.hops())
    drops = recorder.recording.events["drops"]
    assert not len(drops[drops["netns"] == net.client.inode])


@both_versions
def test_no_socket(lab, version):
    """A SYN to a closed port."""
    observed = lab.converse(Conversation(), probes=["drops"], version=version, serve=False)
    lab.judge("drops", observed)
    (row,) = rows_of(observed.recording, lab.net.server, "NO_SOCKET")
    assert (row["flags"], row["size"], row["dport"]) == (SYN, 0, PORT)


@both_versions
def test_only_tcp(net, version):
    """A datagram to a closed port is given up for the same reason as a SYN, and is not reported."""
    family = {4: socket.AF_INET, 6: socket.AF_INET6}[version]
    with recorded(net) as recorder, inside(net.client.name, lambda: socket.socket(family, socket.SOCK_DGRAM)) as client:
        client.settimeout(HUNG_S)
        client.connect((net.server.address(version), PORT))
        client.send(bytes(64))
        with pytest.raises(ConnectionRefusedError):  # the server's ICMP message: no socket has the port
            client.recv(1)
    drops = recorder.recording.events["drops"]
    assert not len(drops[np.isin(drops["netns"], net.inodes)])


@both_versions
def test_what_only_looks_like_tcp(net, version):
    """Frames that are given up and differ from a segment of TCP in one place. The last one is such a segment."""
    packet = {4: IP, 6: IPv6}[version](src=net.client.address(version), dst=net.server.address(version))
    ethertype = {4: ETH_P_IP, 6: ETH_P_IPV6}[version]
    whole = [bytes(packet / TCP(sport=port, dport=PORT, flags="S")) for port in range(1, 4)]
    frames = [(ETH_P_EXPERIMENTAL, whole[0]), (ethertype, bytes([whole[1][0] ^ 0x10]) + whole[1][1:])]
    if version == 4:
        drop_by_rule(net.server, "prerouting", "ip frag-off & 0x1fff != 0")
        frames.append((ethertype, bytes(IP(src=packet.src, dst=packet.dst, frag=9, proto="tcp") / whole[0][20:])))
    with recorded(net) as recorder, inside(net.client.name, lambda: socket.socket(AF_PACKET, SOCK_RAW)) as sender:
        sender.bind(("eth0", 0))
        for kind, data in [*frames, (ethertype, whole[2])]:
            sender.send(bytes(Ether(src=net.client.mac, dst=net.server.mac, type=kind) / data))
    drops = recorder.recording.events["drops"]
    assert drops[drops["netns"] == net.server.inode]["sport"].tolist() == [3]


def drop_by_rule(host, hook, match=f"tcp dport {PORT}"):
    """Let a host drop packets at a hook of its firewall, by default those to the port."""
    rule = f"add table inet t; add chain inet t c {{ type filter hook {hook} priority 0; }}; add rule inet t c {match} drop"
    command = ["/usr/sbin/ip", "netns", "exec", host.name, "nft", rule]
    subprocess.run(command, check=True, capture_output=True, timeout=HUNG_S)


@both_versions
def test_a_rule_of_the_firewall(net, version):
    """The reason is NETFILTER_DROP; the socket is there, and has not been looked up."""
    drop_by_rule(net.server, "input")
    with recorded(net) as recorder, listening(net, version), client_of(net, version) as client:
        client.settimeout(0)
        client.connect_ex((net.server.address(version), PORT))
    (row,) = rows_of(recorder.recording, net.server)
    assert reason_of(row) == "NETFILTER_DROP"
    assert row["flags"] == SYN


@pytest.mark.parametrize(("version", "options"), [(4, b""), (4, b"\1\1\1\1"), (6, b"")])
def test_data(net, version, options):
    """Data has its size, sequence number and time, also behind options of IP. A later attempt can join both segments."""
    with listening(net, version) as listener, client_of(net, version) as client:
        if options:
            client.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, options)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.connect((net.server.address(version), PORT))
        with listener.accept()[0], record("drops") as recorder:
            drop_by_rule(net.server, "input")
            begin_ns = time.monotonic_ns()
            client.send(bytes(1000))
            client.send(bytes(500))
            await_backlogs(hops=net.description.hops())
            end_ns = time.monotonic_ns()
    rows = rows_of(recorder.recording, net.server, "NETFILTER_DROP")
    rows = rows[(rows["flags"] == PSH | ACK) & (rows["time_ns"] < end_ns)]
    assert (rows["time_ns"] > begin_ns).all()
    sizes = {int(row["seq"]): int(row["size"]) for row in rows[::-1]}  # of the first attempt for each number
    (first, size), (second, next_size) = sorted(sizes.items(), key=lambda it: it[1], reverse=True)
    assert (size, next_size, (second - first) % 2**32) == (1000, 500, 1000)


@both_versions
def test_a_rule_for_what_leaves(net, version):
    """A packet that this machine sends has the socket that sends it, before it has a device."""
    drop_by_rule(net.client, "output")
    with recorded(net) as recorder, client_of(net, version) as client:
        client.settimeout(0)
        client.connect_ex((net.server.address(version), PORT))
        inode, port = os.fstat(client.fileno()).st_ino, client.getsockname()[1]
    names = ("flags", "inode", "sport", "dport")
    found = {(reason_of(row), *row[[*names]].item()) for row in rows_of(recorder.recording, net.client)}
    assert found == {("NETFILTER_DROP", SYN, inode, port, PORT)}


@both_versions
def test_a_syn_ack_that_does_not_leave(net, version):
    """A request sends it, which is no socket with a file."""
    drop_by_rule(net.server, "output", f"tcp sport {PORT}")
    with recorded(net) as recorder, listening(net, version), client_of(net, version) as client:
        client.settimeout(0)
        client.connect_ex((net.server.address(version), PORT))
        await_backlogs(hops=net.description.hops())
    rows = rows_of(recorder.recording, net.server)
    assert {(reason_of(row), *row[["flags", "inode"]].item()) for row in rows} == {("NETFILTER_DROP", SYN | ACK, 0)}


@both_versions
def test_a_full_accept_queue(version):
    """The last ACK of a handshake finds no room (tcp_v4_syn_recv_sock()). The kernel says NO_SOCKET, though there is one.

    A client that closes repeats that ACK with its FIN.
    """
    with topology(Relay()) as net:
        with recorded(net) as recorder, crowd(net, version):
            pass
        rows = rows_of(recorder.recording, net.server, "ACCEPT_QUEUE_FULL")
    assert {ACK} <= {int(row["flags"]) for row in rows} <= {ACK, ACK | FIN}


@both_versions
def test_a_wrong_checksum(version):
    """As many as the kernel's counter of wrong checksums."""
    with topology(Relay()) as net:
        before = wrong_checksums(net.server)
        with recorded(net) as recorder, listening(net, version) as listener, client_of(net, version) as client:
            client.connect((net.server.address(version), PORT))
            with listener.accept()[0] as accepted:
                net.conditions(Conditions(corrupt=1.0), Conditions())
                client.send(bytes(1000))
                deadline = time.monotonic() + HUNG_S
                while wrong_checksums(net.server) == before:
                    assert time.monotonic() < deadline, "no wrong checksum has arrived"
                    time.sleep(0.001)
                net.conditions(Conditions(), Conditions())
                assert len(accepted.recv(1000, socket.MSG_WAITALL)) == 1000
        counted = wrong_checksums(net.server) - before
        rows = rows_of(recorder.recording, net.server, "TCP_CSUM")
    assert len(rows) == counted
    assert all(row["flags"] & ACK for row in rows)


def wrong_checksums(host):
    return counters(host.name, "snmp", "Tcp:")["InCsumErrors"]
