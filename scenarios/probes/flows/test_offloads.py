"""Counts of `flows` with segmentation and receive offloads, where one skb is many packets on the wire.

F1 is a row of the table in docs/truth.md.
"""

import socket
import struct

import pytest
from pyroute2 import IPRoute
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw, raw
from support.mutants import counts_skbs, totals_of
from support.packet_taps import captured

from lab.ebpf.program import Program
from lab.linux.ethtool import set_offloads
from lab.linux.netns import inside
from lab.observation import Observed
from lab.probes.flows import measure
from lab.probes.flows.measure import Direction
from lab.recording.recorder import record
from lab.tcp import address_text
from lab.traffic.crafted.send import send
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse
from lab.verdict import Bracket

both_versions = pytest.mark.parametrize("version", [4, 6])
EGRESS, INGRESS = Direction.EGRESS, Direction.INGRESS


def by_addresses(rows):
    """Return packets and bytes by (source, destination)."""
    pairs = measure.merged(rows, ("saddr", "daddr"))
    keys = [tuple(address_text(row[name].tobytes()) for name in ("saddr", "daddr")) for row in pairs]
    return {key: (int(row["packets"]), int(row["bytes"])) for key, row in zip(keys, pairs, strict=True)}


def set_up(net, arrangement):
    """Configure where the kernel segments super-packets and where it joins them."""
    if arrangement == "cut up where they leave":
        for host in (net.client, net.server):
            inside(host.name, lambda: set_offloads("eth0", on=False))
    elif arrangement != "never cut up":
        for side in ("client", "server"):
            inside(net.wire, lambda side=side: set_offloads(side, "gso", "tso", on=False))
    if arrangement == "cut up on the wire and joined on arrival":
        for host in (net.client, net.server):
            inside(host.name, lambda: set_offloads("eth0", "gro", on=True))


BULK = Conversation(size_bits=8 * 3_000_000)
ARRANGEMENTS = {
    "never cut up": True,
    "cut up where they leave": False,
    "cut up on the wire": False,
    "cut up on the wire and joined on arrival": True,
}


@both_versions
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_bulk_transfer(lab, version, arrangement, tmp_path):
    """F1: packets and bytes are exact and equal at both ends, wherever super-packets are segmented or joined."""
    net = lab.net
    set_up(net, arrangement)
    programs = {"flows": Program.load("flows"), "skbs": counts_skbs(tmp_path)}
    with lab.observe(BULK, version=version, programs=programs) as observed:
        pass
    lab.judge("flows", observed)
    skbs, packets = (
        {way: totals_of(observed.recording.totals[name], net.server, way)["packets"].sum() for way in (EGRESS, INGRESS)}
        for name in ("skbs", "flows")
    )
    assert skbs[EGRESS] < packets[EGRESS], "no super-packets: the scenario proves nothing"
    assert (skbs[INGRESS] < packets[INGRESS]) == ARRANGEMENTS[arrangement]


@both_versions
def test_capture_on_the_wire(lab, version, tmp_path):
    """F1: the counts at the host, where TCP has super-packets, equal those of tshark on the wire."""
    net = lab.net
    set_up(net, "cut up where they leave")
    with captured(net.wire, "client", tmp_path / "wire.pcapng", net.client.name) as (packets, size):
        observed = lab.converse(BULK, version=version, probes=["flows"])
    totals = observed.recording.totals["flows"]
    ends = (net.client.address(version), net.server.address(version))
    judge = observed.judge(lab.scenario, "flows")
    checks = []
    for pair, way in ((ends, EGRESS), (ends[::-1], INGRESS)):
        counted = by_addresses(totals_of(totals, net.client, way))[pair]
        checks += [
            judge.equal(" -> ".join(pair), f"{name} on the wire", true[pair], measured)
            for name, true, measured in zip(("packets", "bytes"), (packets, size), counted, strict=True)
        ]
    lab.check(checks)


@pytest.mark.parametrize(("arrangement", "name"), [("cut up where they leave", "flows"), ("never cut up", "skbs")])
def test_interface_counters(lab, arrangement, name, tmp_path):
    """F1: without offloads the sums of all rows equal the interface's counters; with offloads those count skbs."""
    net = lab.net

    def counters():
        with IPRoute(netns=net.client.name) as netlink:
            stats = netlink.get_links(net.client.ifindex)[0].get_attr("IFLA_STATS64")
        return {way + unit: stats[way + unit] for way in ("tx_", "rx_") for unit in ("packets", "bytes")}

    set_up(net, arrangement)
    program = {"flows": Program.load("flows"), "skbs": counts_skbs(tmp_path)}[name]
    outer = counters()
    with record(programs={name: program}, devices=[net.client.device]) as recorder:
        inner = counters()
        with converse(net, BULK):
            pass
        net.quiesce()
        inner = {counter: value - inner[counter] for counter, value in counters().items()}
    outer = {counter: value - outer[counter] for counter, value in counters().items()}
    # The kernel may send MLD reports between the outer and the inner reading of the counters.
    judge = Observed(net.inodes, recorder.recording).judge(lab.scenario, name)
    sums = {way: totals_of(recorder.recording.totals[name], net.client, way) for way in (EGRESS, INGRESS)}
    lab.check(
        judge.count("eth0", prefix + unit, Bracket.early(inner[prefix + unit], outer[prefix + unit]), measured)
        for prefix, way in (("tx_", EGRESS), ("rx_", INGRESS))
        for unit in ("packets", "bytes")
        for measured in [int(sums[way][unit].sum())]
    )


@both_versions
def test_udp_super_packets(lab, version):
    """F1: a super-packet of 21 UDP datagrams (UDP_SEGMENT) counts as 21 packets with their headers, at both ends."""
    net, family = lab.net, {4: socket.AF_INET, 6: socket.AF_INET6}[version]
    address = (net.server.address(version), 4321)
    with (
        inside(net.server.name, lambda: socket.socket(family, socket.SOCK_DGRAM)) as receiver,
        inside(net.client.name, lambda: socket.socket(family, socket.SOCK_DGRAM)) as sender,
    ):
        receiver.bind(address)
        receiver.settimeout(20)
        sender.setsockopt(socket.IPPROTO_UDP, 103, 1000)  # UDP_SEGMENT, include/uapi/linux/udp.h
        with record("flows", devices=net.devices) as recorder:
            sender.sendto(bytes(20_500), address)
            assert sum(len(receiver.recv(2000)) for _ in range(21)) == 20_500
    headers = 14 + {4: 20, 6: 40}[version] + 8
    for host, way in ((net.client, EGRESS), (net.server, INGRESS)):
        rows = totals_of(recorder.recording.totals["flows"], host, way)
        (row,) = rows[rows["dport"] == 4321]
        assert (row["packets"], row["bytes"], row["payload_bytes"]) == (21, 20_500 + 21 * headers, 20_500)


@both_versions
def test_super_packet_of_a_virtual_machine(lab, version):
    """F1: a super-packet of a virtual machine, without a number of segments, counts as the segments that arrive."""
    net = lab.net
    ip = {4: IP(src="198.51.100.1", dst="203.0.113.1"), 6: IPv6(src="2001:db8:1::1", dst="2001:db8:2::1")}[version]
    frame = raw(
        Ether(src=net.client.mac, dst=net.server.mac) / ip / TCP(sport=1, dport=2, flags="A") / Raw(bytes(20_500))
    )
    headers = len(frame) - 20_500
    # include/uapi/linux/virtio_net.h: the kernel computes the checksum from the TCP header on and segments as TCP over
    # this IP version.
    gso_type = {4: 1, 6: 4}[version]
    machine = struct.pack("=BBHHHH", 1, gso_type, headers, 1000, headers - 20, 16)
    with record("flows", devices=net.devices) as recorder:
        send(net.client.name, [machine + frame], as_machine=True)
        net.quiesce()
    for host, way in ((net.client, EGRESS), (net.server, INGRESS)):
        rows = totals_of(recorder.recording.totals["flows"], host, way)
        (row,) = rows[rows["dport"] == 2]
        assert (row["packets"], row["bytes"], row["payload_bytes"]) == (21, 20_500 + 21 * headers, 20_500)
