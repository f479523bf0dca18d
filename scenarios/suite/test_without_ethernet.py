"""F8: interfaces without Ethernet headers: the inside of a VPN, watched by every probe that observes interfaces."""

import socket

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from support.multicast import member, send_to_all
from support.packet_taps import tshark
from support.processes import parsed, refuses, watching
from support.tunnel import tunnel

from lab.linux.netns import inside
from lab.observation import observe, observing
from lab.probes.flows.measure import Direction
from lab.recording.recorder import record
from lab.tcp import address_text
from lab.traffic.crafted.send import send
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse
from lab.units import MS

both_versions = pytest.mark.parametrize("version", [4, 6])
EGRESS, INGRESS = Direction.EGRESS, Direction.INGRESS
TALK = Conversation(exchanges=3, size_bits=80_000, hold_ns=5 * MS)


@pytest.fixture
def vpn(net):
    """Build a tunnel between both hosts."""
    with tunnel(net) as vpn:
        yield vpn


def of_port(carried, port):
    """Return the carried packets of a port, as scapy reads them."""
    read = [(IPv6 if packet[0] >> 4 == 6 else IP)(packet) for packet in carried]
    return [packet for packet in read if {packet.payload.fields.get(name) for name in ("sport", "dport")} & {port}]


def counts(packets):
    """Return number, bytes and payload bytes of packets."""
    payload = sum(len(packet.payload.payload) for packet in packets)
    return len(packets), sum(map(len, packets)), payload


@both_versions
@pytest.mark.parametrize("probe", ["packets", "duration", "layers"])
def test_judged(lab, vpn, probe, version):
    """F8: the probe's numbers inside the tunnel are consistent with those of the applications."""
    with observe(vpn.net, TALK, probes=[probe], version=version) as observed:
        pass
    assert lab.judge(probe, observed)


@both_versions
def test_flows(vpn, version):
    """F8: packets and bytes of TCP and UDP are those that the tunnel carried, in each direction at both ends."""
    family = {4: socket.AF_INET, 6: socket.AF_INET6}[version]
    net = vpn.net
    with observing(net, probes=["flows"]) as observed:
        with converse(net, TALK, version=version):
            pass
        for here, there in ((net.client, net.server), (net.server, net.client)):
            with (
                inside(here.name, lambda: socket.socket(family, socket.SOCK_DGRAM)) as sender,
                inside(there.name, lambda: socket.socket(family, socket.SOCK_DGRAM)) as receiver,
            ):
                receiver.bind((there.address(version), 5000))
                receiver.settimeout(20)
                sender.sendto(bytes(100), (there.address(version), 5000))
                receiver.recv(1000)
    totals = observed.recording.totals["flows"]
    assert not totals["smac"].any()
    assert not totals["dmac"].any()
    for port in (9999, 5000):
        rows = totals[(totals["dport"] == port) | (totals["sport"] == port)]
        for host, ways in ((net.client, (EGRESS, INGRESS)), (net.server, (INGRESS, EGRESS))):
            for way, carried in zip(ways, vpn.carried, strict=True):
                here = rows[(rows["ifindex"] == host.ifindex) & (rows["direction"] == way)]
                seen = tuple(int(here[name].sum()) for name in ("packets", "bytes", "payload_bytes"))
                assert seen == counts(of_port(carried, port))
                assert seen[0]
        assert {address_text(row["saddr"].tobytes()) for row in rows} == {
            host.address(version) for host in (net.client, net.server)
        }


@pytest.mark.parametrize("group", ["224.0.0.251", "ff02::fb"])
def test_looped_copies(vpn, group):
    """F6: copies of multicast datagrams that a host sends itself are not counted and not printed."""
    host = vpn.net.client
    with member(host, group) as sock, record("flows", "packets", devices=[host.device]) as recorder:
        send_to_all(sock, group, (0, 30, 1200))
    assert len(recorder.recording.events["packets"]) == 0
    (row,) = (totals := recorder.recording.totals["flows"])[totals["dport"] == 5353]
    assert (row["packets"], row["direction"], row["payload_bytes"]) == (3, EGRESS, 1230)


@both_versions
def test_live_packets(vpn, version, tmp_path):
    """F8: `lab packets` prints each packet that arrives, and tshark reads its capture."""
    path, net = tmp_path / "tun.pcapng", vpn.net
    options = ("--netns", net.server.name, "-i", "tun0", "--pcap", str(path), "--json")
    with watching("packets", *options) as output:
        with converse(net, TALK, version=version):
            pass
        net.quiesce()
    rows = parsed(output)
    arrived = of_port(vpn.carried[0], 9999)
    assert [(row["frame_length"], row["source_port"], row["payload_length"]) for row in rows] == [
        (len(packet), packet.sport, len(packet.payload.payload)) for packet in arrived
    ]
    assert {row["ethertype"] for row in rows} == {{4: "0x0800", 6: "0x86dd"}[version]}
    fields = ["frame.len", {4: "ip.src", 6: "ipv6.src"}[version], "tcp.seq_raw"]
    assert tshark(path, "tcp", fields) == [
        [str(row["frame_length"]), net.client.address(version), str(row["seq"])] for row in rows
    ]


def test_live_flows(vpn):
    """F8: `lab flows --mac` shows no MAC addresses, and no addresses at all for a packet that is not IP."""
    net = vpn.net
    with watching("flows", "--mac", "--json", "-i", "tun0", "--netns", net.client.name) as output:
        with converse(net, TALK):
            pass
        send(net.client.name, [bytes(40)], "tun0")
        net.quiesce()
    every = parsed(output)
    rows = [row for row in every if row["time_ns"] == every[-1]["time_ns"]]
    assert {row["protocol"] for row in rows} == {"TCP", "other (malformed)"}
    assert {row["source_mac"] for row in rows} == {None}
    assert {row["source_address"] for row in rows} == {net.client.ipv4, net.server.ipv4, None}


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_no_xdp(vpn, mode):
    """F8: XDP is not offered where the packets have no Ethernet headers."""
    words = ["packets", "-i", "tun0", "--netns", vpn.net.client.name, "--mode", mode]
    refuses(words, "`tun0` has no Ethernet headers, it is observed at TC: leave --mode out")


def test_with_and_without(vpn):
    """F8: one program does not read both forms at the same time."""
    words = ["layers", "-i", "tun0", "--netns", vpn.net.client.name, "--peer-netns", vpn.net.server.name]
    refuses([*words, "--peer-interface", "eth0"], "with and without Ethernet headers (tun0) cannot be watched together")


def test_no_replay(vpn):
    """F8: Ethernet frames of a file are not sent where packets have no Ethernet headers."""
    words = ["replay", "frames.pcap", "-i", "tun0", "--netns", vpn.net.client.name]
    refuses(words, "`tun0` carries no Ethernet frames: give another interface")
