"""The probe `duration` at several devices that the same packets pass: each has one line with its own times."""

import socket
from dataclasses import replace

import pytest
from pyroute2 import IPRoute
from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_NODAD
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from support.links import await_carrier

from lab.ebpf.interface import Device
from lab.linux.netns import inside
from lab.observation import Observed
from lab.probes.duration.measure import lifetimes
from lab.recording.recorder import record
from lab.tcp import Ended
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse
from lab.units import MS

MAC = "02:00:00:00:01:5e"
INNER = {"client": ("198.51.100.1", "2001:db8:1::1"), "server": ("198.51.100.2", "2001:db8:1::2")}
PREFIX = (24, 64)


def add_device(host, peer_addresses, peer_mac, addresses, **link):
    """Create the device `top0` of a host, with addresses and permanent neighbours."""
    with inside(host.name, IPRoute) as netlink:
        netlink.link("add", ifname="top0", **link)
        (index,) = netlink.link_lookup(ifname="top0")
        if link["kind"] == "bridge":
            netlink.link("set", index=host.ifindex, master=index)
        netlink.link("set", index=index, arp=False)
        netlink.link("set", index=index, state="up")
        if link["kind"] != "vxlan":
            netlink.flush_addr(index=host.ifindex)
        for address, length in zip(addresses, PREFIX, strict=True):
            netlink.addr("add", index=index, address=address, prefixlen=length, flags=IFA_F_NODAD)
        for address in peer_addresses:
            netlink.neigh("add", dst=address, lladdr=peer_mac, ifindex=index, state="permanent")
        await_carrier(netlink, index)
    return Device.find("top0", host.name)


def bridge(net):
    """Put the server's addresses on a bridge above `eth0`."""
    server, client = net.server, net.client
    link = {"kind": "bridge", "address": server.mac, "br_stp_state": 0, "br_mcast_snooping": 0}
    top = add_device(server, (client.ipv4, client.ipv6), client.mac, (server.ipv4, server.ipv6), **link)
    return net, server.inode, [server.device, top]


def macvlan(net):
    """Put the server's addresses on a macvlan above `eth0`."""
    server, client = net.server, net.client
    link = {"kind": "macvlan", "link": server.ifindex, "macvlan_mode": "bridge", "address": MAC}
    top = add_device(server, (client.ipv4, client.ipv6), client.mac, (server.ipv4, server.ipv6), **link)
    for address in (server.ipv4, server.ipv6):
        client.knows(address, MAC)
    return net, server.inode, [server.device, top]


def vxlan(net):
    """Connect the hosts by a tunnel above `eth0`, whose outer packets are UDP."""
    hosts, ends = {"client": net.client, "server": net.server}, []
    for side, peer in (("client", "server"), ("server", "client")):
        link = {"kind": "vxlan", "vxlan_id": 7, "vxlan_port": 4789, "vxlan_link": hosts[side].ifindex}
        link |= {"vxlan_group": hosts[peer].ipv4, "address": hosts[side].mac, "vxlan_learning": False}
        ends.append(add_device(hosts[side], INNER[peer], hosts[peer].mac, INNER[side], **link))
    client, server = (replace(hosts[side], ipv4=INNER[side][0], ipv6=INNER[side][1]) for side in hosts)
    return replace(net, client=client, server=server, target=server), net.server.inode, [ends[1]]


def ports(net):
    """Watch both ports of the bridge between the hosts, which forwards the packets."""
    devices = [Device.find(port, net.wire) for port in ("client", "server")]
    return net, devices[0].inode, devices


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("stack", [bridge, macvlan, vxlan, ports], ids=lambda stack: stack.__name__)
def test_one_line_for_each_device(lab, stack, version):
    """F9: each device has one row for each connection, and each row is right."""
    net, inode, devices = stack(lab.net)
    conversation = Conversation(hold_ns=5 * MS, linger_ns=5 * MS)
    with record("duration", devices=[*devices, lab.net.client.device]) as recorder:
        with converse(net, conversation, version=version, connections=5) as demo:
            pass
        end_ns = net.quiesce()
    if stack is vxlan:  # there is no TCP at the client's eth0
        events = recorder.recording.events["duration"]
        assert set(events["ifindex"]) == {device.ifindex for device in devices}
        recorder.recording.devices.pop(lab.net.client.ifindex)
    observed = Observed((lab.net.client.inode, inode), recorder.recording, demo.connections, end_ns)
    lab.judge("duration", observed)
    rows = lifetimes(recorder.recording.events["duration"], end_ns)
    assert len(rows) == 5 * len(recorder.recording.devices)


def test_stacked_tags(net):
    """F3: connections with the same addresses in different VLANs, the inner tag included, are different connections."""
    tags = [(7, 8), (7, 9), (6, 8)]
    ends = IP(src="192.0.2.7", dst="192.0.2.8")
    with record("duration", devices=[net.server.device]) as recorder:
        with inside(net.wire, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as wire:
            wire.bind(("server", 0))
            for seq, flags in enumerate("SR", 1):
                for outer, inner in tags:
                    # The destination is the MAC address of no host, so nothing answers.
                    frame = (
                        Ether(dst="02:00:00:00:00:02")
                        / Dot1AD(vlan=outer)
                        / Dot1Q(vlan=inner)
                        / ends
                        / TCP(flags=flags, seq=seq)
                    )
                    wire.send(bytes(frame))
        end_ns = net.quiesce()
    rows = lifetimes(recorder.recording.events["duration"], end_ns)
    assert rows[["vlan", "inner_vlan"]].tolist() == tags
    assert [Ended(ended) for ended in rows["ended"]] == [Ended.RST] * 3
