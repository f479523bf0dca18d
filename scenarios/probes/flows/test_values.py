"""Packets and bytes of the probe `flows`, against the applications and the kernel's counters.

F2, F4, F5 and X1 are rows of the table in docs/truth.md. F1 is in test_offloads.py, F3 and more
of F5 are in suite/test_unusual_frames.py.
"""

import socket
import struct

import numpy as np
import pytest
from support.mutants import changed, totals_of

from lab.ebpf.interface import Device
from lab.linux.netns import inside
from lab.linux.tcp_counters import tcp_sent
from lab.probes.flows import measure
from lab.probes.flows.measure import Direction
from lab.probes.flows.text import as_dict
from lab.recording.recorder import record
from lab.traffic.crafted.frames import datagrams
from lab.traffic.crafted.send import send
from lab.traffic.demo.conversation import Conversation

both_versions = pytest.mark.parametrize("version", [4, 6])
EGRESS, INGRESS = Direction.EGRESS, Direction.INGRESS


@both_versions
@pytest.mark.parametrize(
    "conversation",
    [
        Conversation(exchanges=0),
        Conversation(exchanges=10, closer="server"),
        Conversation(closer="both"),
        Conversation(how="shutdown"),
        Conversation(how="rst"),
        Conversation(how="rst", closer="server"),
    ],
    ids=["no data", "server closes", "both close", "shutdown", "client resets", "server resets"],
)
def test_conversations(lab, version, conversation):
    """F2: each packet of 20 parallel connections counts once at each interface; payload, SYNs and FINs are exact."""
    observed = lab.converse(conversation, version=version, connections=20, probes=["flows"])
    lab.judge("flows", observed)


@both_versions
def test_refused(lab, version):
    """A refused connection has a SYN and the RST that answers it."""
    observed = lab.converse(Conversation(), version=version, serve=False, source_port=40404, probes=["flows"])
    lab.judge("flows", observed)
    rows = totals_of(observed.recording.totals["flows"], lab.net.client, INGRESS)
    (answer,) = rows[rows["dport"] == 40404]
    assert answer["packets"] == answer["rsts"] >= 1
    assert answer["syns"] == 0


@pytest.fixture
def loopback(net):
    """Return the loopback of a namespace without other traffic."""
    return Device("lo", measure.LOOPBACK, net.client.name, net.client.inode)


def test_loopback(net, loopback):
    """F2: a packet on the loopback passes twice and is counted once."""
    before = tcp_sent(net.client.name)
    with (
        inside(net.client.name, lambda: socket.create_server(("127.0.0.1", 0))) as listener,
        record("flows", devices=[loopback]) as recorder,
        inside(net.client.name, lambda: socket.create_connection(listener.getsockname())) as client,
        listener.accept()[0] as server,
    ):
        client.sendall(bytes(100_000))
        client.close()
        assert sum(iter(lambda: len(server.recv(1 << 16)), 0)) == 100_000
        server.close()
        net.quiesce()
        port = listener.getsockname()[1]
    (request,) = (rows := recorder.recording.totals["flows"])[rows["dport"] == port]
    (reply,) = rows[rows["sport"] == port]
    assert set(rows["direction"]) == {EGRESS}
    assert reply["payload_bytes"] == 0
    sent = tcp_sent(net.client.name).since(before)
    assert sent.segments <= rows["packets"].sum() <= sent.segments + sent.retransmitted
    assert 100_000 <= request["payload_bytes"] <= 100_000 + sent.retransmitted * 65_536
    for row in (request, reply):
        assert 1 <= row["syns"] <= 1 + sent.retransmitted_syns
        assert 1 <= row["fins"] <= 1 + sent.retransmitted


def test_four_interfaces(net):
    """F2: a frame that passes four interfaces counts once at each, with its VLAN tag, in the frame or in metadata."""
    sides = [Device.find(side, net.wire) for side in ("client", "server")]
    (frame,) = datagrams([1], size=30)
    macs = bytes.fromhex((net.server.mac + net.client.mac).replace(":", ""))
    tagged = macs + b"\x81\x00\x00\x0a" + frame[12:]
    with record("flows", devices=[*net.devices, *sides]) as recorder:
        send(net.client.name, [tagged])
        net.quiesce()
    rows = recorder.recording.totals["flows"]
    rows = rows[rows["dport"] == 53]
    path = [
        (net.client.ifindex, EGRESS),
        (sides[0].ifindex, INGRESS),
        (sides[1].ifindex, EGRESS),
        (net.server.ifindex, INGRESS),
    ]
    assert [(row["ifindex"], row["direction"]) for row in np.sort(rows, order="first_ns")] == path
    assert {(row["packets"], row["bytes"], row["vlan"]) for row in rows} == {(1, 76, 10)}


def test_10_000_flows(net, loopback):
    """F4: 10,000 flows have their own packets and bytes, and no event is lost."""
    with record("flows", devices=[loopback]) as recorder:
        send(net.client.name, datagrams(range(10_000), size=20), "lo")
        send(net.client.name, datagrams(range(0, 10_000, 2), size=50), "lo")
    rows = np.sort(recorder.recording.totals["flows"], order="sport")
    flow = np.arange(10_000)
    assert np.array_equal(rows["sport"], 1024 + flow)
    assert np.array_equal(rows["packets"], np.where(flow % 2, 1, 2))
    assert np.array_equal(rows["bytes"], np.where(flow % 2, 62, 62 + 92))
    assert (rows["first_ns"] <= rows["last_ns"]).all()


def test_full_map(net, loopback, tmp_path):
    """F4, X1: with room for 8 of 20 flows, exactly the packets of the other 12 are lost, and all are delivered."""
    tiny = changed(tmp_path, "flows", ("65536", "8"))
    with (
        inside(net.client.name, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as receiver,
        record(programs={"flows": tiny}, devices=[loopback], lossy=True) as recorder,
    ):
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(20)
        for number in range(20):
            with inside(net.client.name, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
                sender.bind(
                    ("127.0.0.1", 20_000 + number)
                )  # else the kernel may choose a port twice, which is one flow
                for _ in range(3):
                    sender.sendto(bytes([number]), receiver.getsockname())
        received = [receiver.recv(1)[0] for _ in range(60)]
    assert received == [number for number in range(20) for _ in range(3)]
    recording = recorder.recording
    assert recording.lost["flows"] == 36
    assert [*recording.totals["flows"]["packets"]] == [3] * 8


def test_full_map_counts_segments(lab, tmp_path):
    """F4: a super-packet that finds no room counts as lost with all its packets."""
    tiny = changed(tmp_path, "flows", ("65536", "1"))
    net, address = lab.net, (lab.net.server.ipv4, 4321)
    with (
        inside(net.client.name, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender,
        record(programs={"flows": tiny}, devices=[net.client.device], lossy=True) as recorder,
    ):
        sender.sendto(b"takes the only place", address)
        sender.setsockopt(socket.IPPROTO_UDP, 103, 1000)
        sender.sendto(bytes(20_500), (address[0], 4322))
    # Packets that the kernel sends on its own (ICMP, MLD) find no room either.
    assert recorder.recording.lost["flows"] >= 21


@both_versions
def test_ping(net, version):
    """F5: an echo request and its reply have a row each."""
    family, protocol = {4: (socket.AF_INET, socket.IPPROTO_ICMP), 6: (socket.AF_INET6, socket.IPPROTO_ICMPV6)}[version]
    request = struct.pack("!BBHHH", {4: 8, 6: 128}[version], 0, 0, 1, 1) + bytes(56)
    if version == 4:
        request = request[:2] + struct.pack("!H", 0xFFFF ^ (0x0800 + 1 + 1)) + request[4:]
    with (
        inside(net.client.name, lambda: socket.socket(family, socket.SOCK_RAW, protocol)) as sock,
        record("flows", devices=net.devices) as recorder,
    ):
        sock.settimeout(20)
        sock.sendto(request, (net.server.address(version), 0))
        sock.recv(2000)
    rows = [as_dict(row, {}) for row in measure.pairs(recorder.recording.totals["flows"])]
    ends = (net.client.address(version), net.server.address(version))
    size = 14 + {4: 20, 6: 40}[version] + 64
    for pair in (ends, ends[::-1]):
        found = [row for row in rows if (row["source_address"], row["destination_address"]) == pair]
        assert {row["direction"] for row in found} == {"egress", "ingress"}
        assert {(row["protocol"], row["packets"], row["bytes"]) for row in found} == {
            ({4: "ICMP", 6: "ICMPv6"}[version], 1, size)
        }
