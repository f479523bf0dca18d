"""F9: a packet that passes several devices of one host counts once at each, and each row names its device."""

import subprocess
from contextlib import ExitStack
from dataclasses import replace
from itertools import permutations

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw, raw
from support.processes import parsed, watching

from lab.ebpf.interface import Device
from lab.linux.netns import create, remove
from lab.probes.flows import measure
from lab.probes.flows.text import as_dict
from lab.recording.recorder import record
from lab.traffic.crafted.send import send

BROADCAST = "ff:ff:ff:ff:ff:ff"
LENGTH = 142  # of the frames of `frame`


def ip(netns, *words):
    """Change a namespace's interfaces."""
    subprocess.run(["/usr/sbin/ip", "-n", netns, *words], check=True)


def frame(source, destination, to_mac, *, from_mac=None):
    """Return a frame with a UDP datagram to port 7."""
    datagram = IP(src=source, dst=destination) / UDP(sport=7, dport=7) / Raw(bytes(100))
    return raw(Ether(src=from_mac, dst=to_mac) / datagram)


def counted(rows, names):
    """Return packets by interface, direction, source and destination, of the frames of `frame`."""
    rows = [as_dict(row, names) for row in measure.pairs(rows[(rows["dport"] == 7) & (rows["sport"] == 7)])]
    assert all(row["bytes"] == row["packets"] * LENGTH for row in rows)
    counts = {
        (row["interface"], row["direction"], row["source_address"], row["destination_address"]): row["packets"]
        for row in rows
    }
    assert len(counts) == len(rows)
    return counts


@pytest.fixture
def hosts(net):
    """Add a third host to the wire's bridge; return all three by the names of their ports."""
    name = f"{net.wire}-third"
    third = replace(net.client, name=name, ipv4="192.0.2.3", mac="02:00:00:00:00:03", ifindex=103)
    with ExitStack() as undo:
        undo.callback(remove, name)
        create(name)
        mine = ["name", "eth0", "index", "103", "address", third.mac]
        ip(name, "link", "add", *mine, "up", "type", "veth", "peer", "name", "third", "netns", net.wire)
        ip(net.wire, "link", "set", "dev", "third", "master", "wire", "up")
        hosts = {"client": net.client, "server": net.server, "third": third}
        for host in hosts.values():  # the bridge learns where each is
            Device.find("eth0", host.name)
            send(host.name, [frame("198.51.100.1", "198.51.100.2", BROADCAST, from_mac=host.mac)])
        net.quiesce()
        yield hosts


def test_bridge(net, hosts):
    """F9: at a bridge with three hosts each frame counts once at each port that it passes, and not at the bridge.

    A broadcast passes every port, and the bridge itself once.
    """
    at_bridge = [Device.find(name, net.wire) for name in (*hosts, "wire")]
    devices = [*at_bridge, *(host.device for host in hosts.values())]
    names = {device.ifindex: device.ifname for device in at_bridge}
    names |= {host.ifindex: f"eth0 of {port}" for port, host in hosts.items()}
    expected = {}
    with record("flows", devices=devices) as recorder:
        for number, (here, there) in enumerate(permutations(hosts, 2), 1):
            source, destination = hosts[here], hosts[there]
            ends = (source.ipv4, destination.ipv4)
            send(source.name, [frame(*ends, destination.mac, from_mac=source.mac)] * number)
            path = (
                (f"eth0 of {here}", "egress"),
                (here, "ingress"),
                (there, "egress"),
                (f"eth0 of {there}", "ingress"),
            )
            expected |= {(*place, *ends): number for place in path}
        ends = (net.client.ipv4, "192.0.2.255")
        send(net.client.name, [frame(*ends, BROADCAST, from_mac=net.client.mac)] * 5)
        everywhere = [("eth0 of client", "egress"), ("client", "ingress"), ("wire", "ingress")]
        for port in ("server", "third"):
            everywhere += [(port, "egress"), (f"eth0 of {port}", "ingress")]
        expected |= {(*place, *ends): 5 for place in everywhere}
        net.quiesce()
    assert counted(recorder.recording.totals["flows"], names) == expected


def test_macvlan(net):
    """F9: a frame of a macvlan counts once there and once at its parent, in both directions."""
    mac = "02:00:00:00:00:aa"
    ip(net.client.name, "link", "add", "link", "eth0", "name", "mac0", "address", mac, "up", "type", "macvlan")
    devices = [Device.find("mac0", net.client.name), *net.devices]
    names = {devices[0].ifindex: "mac0", net.client.ifindex: "parent", net.server.ifindex: "server"}
    there, back = ("192.0.2.11", "192.0.2.12"), ("192.0.2.12", "192.0.2.11")
    with record("flows", devices=devices) as recorder:
        send(net.client.name, [frame(*there, net.server.mac, from_mac=mac)] * 3, "mac0")
        net.quiesce()
        send(net.server.name, [frame(*back, mac, from_mac=net.server.mac)] * 4)
        net.quiesce()
    assert counted(recorder.recording.totals["flows"], names) == {
        ("mac0", "egress", *there): 3,
        ("parent", "egress", *there): 3,
        ("server", "ingress", *there): 3,
        ("server", "egress", *back): 4,
        ("parent", "ingress", *back): 4,
        ("mac0", "ingress", *back): 4,
    }


def test_vxlan(net):
    """F9: a frame in a VXLAN counts at the VXLAN as what it is, and at its parent as the datagram that carries it."""
    for host, peer in ((net.client, net.server), (net.server, net.client)):
        where = ["id", "7", "local", host.ipv4, "remote", peer.ipv4, "dstport", "4789", "dev", "eth0"]
        index = str(host.ifindex + 100)
        ip(host.name, "link", "add", "name", "vx0", "index", index, "up", "type", "vxlan", *where)
    inner = [Device.find("vx0", host.name) for host in (net.client, net.server)]
    names = {device.ifindex: device.ifname for device in inner}
    ends = ("192.0.2.11", "192.0.2.12")
    with record("flows", devices=[*inner, *net.devices]) as recorder:
        send(net.client.name, [frame(*ends, BROADCAST, from_mac="02:00:00:00:00:aa")] * 3, "vx0")
        net.quiesce()
    totals = recorder.recording.totals["flows"]
    assert counted(totals, names) == {("vx0", "egress", *ends): 3, ("vx0", "ingress", *ends): 3}
    outer = totals[totals["dport"] == 4789]
    assert {(row["ifindex"], row["direction"]) for row in outer} == {
        (net.client.ifindex, measure.Direction.EGRESS),
        (net.server.ifindex, measure.Direction.INGRESS),
    }
    assert {(row["packets"], row["bytes"]) for row in measure.merged(outer, ("ifindex",))} == {
        (3, 3 * (LENGTH + 14 + 20 + 8 + 8))
    }


def test_live_tool_at_a_port(net, hosts):
    """F9: `lab flows` at a port of a bridge names the port, and counts what that port passes."""
    client, server = hosts["client"], hosts["server"]
    with watching("flows", "--json", "-i", "client", "--netns", net.wire) as output:
        send(client.name, [frame(client.ipv4, server.ipv4, server.mac, from_mac=client.mac)] * 3)
        send(server.name, [frame(server.ipv4, "192.0.2.3", hosts["third"].mac, from_mac=server.mac)] * 4)
        net.quiesce()
    rows = [row for row in parsed(output) if row["protocol"] == "UDP"]
    assert {(row["interface"], row["direction"], row["packets"]) for row in rows} == {("client", "ingress", 3)}
