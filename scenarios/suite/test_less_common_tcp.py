"""TCP in IP fragments, with large packets, between link-local addresses and without time stamps: flows and packets."""

import socket
import subprocess

import pytest
from scapy.layers.inet import IP, TCP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import Ether
from scapy.packet import Raw, raw
from support.processes import parsed, watching

from lab.ebpf.program import Program
from lab.linux.netns import inside
from lab.network.topology import topology
from lab.observation import observe
from lab.packet import Problem, distinct_bytes
from lab.probes.flows import measure
from lab.recording.recorder import record
from lab.tcp import address_text
from lab.traffic.crafted.send import send
from lab.traffic.demo.conversation import Conversation

both_versions = pytest.mark.parametrize("version", [4, 6])
both_probes = pytest.mark.parametrize("probe", ["flows", "packets"])
TALK = Conversation(exchanges=3, size_bits=8 * 200_000)
LARGE = 9000
PAYLOAD = 3000
LINK_LOCAL = ("fe80::c1", "fe80::5e")


@both_probes
@both_versions
def test_no_timestamps(lab, probe, version):
    """Segments without time stamps, whose data begins earlier, have the right payload."""
    for host in (lab.net.client, lab.net.server):
        host.sysctl("ipv4/tcp_timestamps", 0)
    assert lab.judge(probe, lab.converse(TALK, probes=[probe], version=version))


@both_probes
@both_versions
def test_large_packets(lab, probe, version):
    """With an MTU of 9000 packets, bytes and payload are right."""
    with topology(mtu=LARGE) as net, observe(net, TALK, probes=[probe], version=version) as observed:
        pass
    assert observed.mtu == LARGE
    assert lab.judge(probe, observed)


@pytest.fixture
def link_local(net):
    """Give both hosts link-local addresses; return a function that makes a connection and carries data to the server.

    The function returns the client's port.
    """
    hosts = (net.client, net.server)
    for host, peer, address, other in zip(hosts, hosts[::-1], LINK_LOCAL, LINK_LOCAL[::-1], strict=True):
        words = ["-n", host.name, "address", "add", f"{address}/64", "dev", "eth0", "nodad"]
        subprocess.run(["/usr/sbin/ip", *words], check=True)
        host.knows(other, peer.mac)

    def talk():
        client, server = (inside(host.name, lambda: socket.socket(socket.AF_INET6)) for host in hosts)
        with client, server:
            server.bind((LINK_LOCAL[1], 9999, 0, net.server.ifindex))
            server.listen()
            client.settimeout(20)
            client.connect((LINK_LOCAL[1], 9999, 0, net.client.ifindex))
            port = client.getsockname()[1]
            with server.accept()[0] as accepted:
                client.sendall(bytes(PAYLOAD))
                client.shutdown(socket.SHUT_WR)
                assert sum(iter(lambda: len(accepted.recv(1 << 16)), 0)) == PAYLOAD
        net.quiesce()
        return port

    return talk


def test_link_local(net, link_local):
    """Connections between link-local addresses are as any other; their zone is the interface of the row."""
    with record("flows", "packets", devices=net.devices) as recorder:
        port = link_local()
    totals = recorder.recording.totals["flows"]
    rows = measure.merged(totals[totals["dport"] == 9999], ("ifindex", "direction", "saddr", "daddr", "sport"))
    ends = [(address_text(row["saddr"].tobytes()), address_text(row["daddr"].tobytes()), row["sport"]) for row in rows]
    assert ends == [(*LINK_LOCAL, port)] * 2
    assert {int(row["ifindex"]) for row in rows} == {net.client.ifindex, net.server.ifindex}
    assert [int(row["payload_bytes"]) >= PAYLOAD for row in rows] == [True, True]
    seen = recorder.recording.events["packets"]
    seen = seen[seen["dport"] == 9999]
    assert set(seen["ifindex"]) == {net.server.ifindex}
    assert distinct_bytes(seen["seq"], seen["payload_length"]) == PAYLOAD


def test_link_local_in_the_live_tools(net, link_local):
    """The zone of a link-local address is not printed with it: `lab flows` names the interface in the same row."""
    host = ("--netns", net.server.name)
    with watching("flows", "--json", *host) as flows, watching("packets", "--json", *host) as packets:
        link_local()
    rows = [row for row in parsed(flows) if row["protocol"] == "TCP"]
    assert {(row["source_address"], row["destination_address"], row["interface"]) for row in rows} == {
        (*LINK_LOCAL, "eth0"),
        (*LINK_LOCAL[::-1], "eth0"),
    }
    assert {(row["source_address"], row["destination_address"]) for row in parsed(packets)} == {LINK_LOCAL}


def in_fragments(net, version):
    """Return the frames of one TCP segment of the client, which its sender has cut into IP fragments."""
    segment = TCP(sport=5555, dport=9999, flags="PA", seq=1000, ack=1) / Raw(bytes(PAYLOAD))
    if version == 4:
        parts = fragment(IP(src="192.0.2.7", dst="192.0.2.8") / segment, 1000)
    else:
        parts = fragment6(IPv6(src="2001:db8::7", dst="2001:db8::8") / IPv6ExtHdrFragment() / segment, 1280)
    return [raw(Ether(src=net.client.mac, dst=net.server.mac) / part) for part in parts]


@both_versions
def test_tcp_in_fragments(net, version):
    """Every fragment counts, its data is payload, and only the first has ports."""
    frames = in_fragments(net, version)
    everything = {"packets": Program.load("packets", ("PORT=0",))}
    with record("flows", programs=everything, devices=[net.server.device]) as recorder:
        send(net.client.name, frames)
        net.quiesce()
    totals = recorder.recording.totals["flows"]
    totals = totals[totals["protocol"] == 6]
    (pair,) = measure.pairs(totals)
    assert (pair["packets"], pair["bytes"]) == (len(frames), sum(map(len, frames)))
    assert pair["payload_bytes"] == PAYLOAD
    ports = {(int(row["sport"]), int(row["dport"]), int(row["problem"])): int(row["packets"]) for row in totals}
    assert ports == {(5555, 9999, Problem.NONE): 1, (0, 0, Problem.LATER_FRAGMENT): len(frames) - 1}
    seen = recorder.recording.events["packets"]
    seen = seen[seen["protocol"] == 6]
    assert [(row["sport"], row["frame_length"], row["fragment"]) for row in seen] == [
        (0 if number else 5555, len(frame), 1) for number, frame in enumerate(frames)
    ]
