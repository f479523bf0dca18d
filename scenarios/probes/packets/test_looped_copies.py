"""F6: copies of multicast and broadcast datagrams that a host sends itself reach XDP, and are no frames."""

import pytest
from scapy.layers.inet import IP, UDP, IPOption_RR
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw
from support.multicast import GROUPS, member, send_to_all

from lab.ebpf.program import Program
from lab.linux.bpf import prog_test_run
from lab.recording.recorder import record

SIZES = (0, 30, 1200, 5000)  # the last is sent in fragments, and its copy is whole
ALL = ("PORT=0",)


@pytest.mark.parametrize("hook", [(), ("AT_TC=1",)], ids=["XDP", "TC"])
@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_looped_copies(net, group, hook):
    """F6: the sender receives its own datagrams and no frame; the other host receives each frame once."""
    everything = {"packets": Program.load("packets", ALL + hook)}
    with member(net.client, group) as sock, record(programs=everything, devices=net.devices) as recorder:
        send_to_all(sock, group, SIZES)
        net.quiesce()
    frames = recorder.recording.events["packets"]
    assert len(frames[frames["ifindex"] == net.client.ifindex]) == 0
    assert len(frames[frames["dport"] == 5353]) == len(SIZES)


def seen(frame):
    """Return how many events a frame causes."""
    program = Program.load("packets", ALL)
    program.ring.skip()
    prog_test_run(program.fds[0], bytes(frame))
    return len(program.ring.drain())


V4, V6 = IP(src="192.0.2.1", dst="224.0.0.251"), IPv6(src="2001:db8::1", dst="ff02::fb")
COPIES = {
    "IPv4": V4 / UDP(),
    "IPv4 with options": IP(src="192.0.2.1", dst="224.0.0.251", options=[IPOption_RR(routers=["192.0.2.9"])]) / UDP(),
    "IPv4 from 8.0.0.0/16": IP(src="8.0.69.1", dst="224.0.0.251") / UDP() / Raw(bytes(100)),
    "IPv6": V6 / UDP(),
    "IPv6 from a network that reads as an ethertype": IPv6(src="2001:db8:800::1", dst="ff02::fb") / UDP(),
    "IPv6, no UDP": V6 / ICMPv6EchoRequest(),
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_copies_are_recognised(copy):
    """F6: a datagram without an Ethernet header is no frame. One byte more or less, and it is one."""
    whole = bytes(copy)
    assert seen(whole) == 0
    assert seen(whole + b"\0") == seen(whole[:-1]) == 1


def alike(packet):
    """Return a frame whose destination MAC address and length are those of a looped copy."""
    size = len(Ether() / packet)
    start = {4: bytes([0x45, 0]) + size.to_bytes(2) + b"\0\1", 6: bytes([0x60, 0, 0, 0]) + (size - 40).to_bytes(2)}
    return [Ether(dst=address.hex(":"), src="3a:ff:ff:ff:ff:ff") / packet for address in start.values()]


FRAMES = {
    "IPv4": IP(src="192.0.2.255", dst="192.0.2.2") / UDP(),
    "IPv6": IPv6(src="ff02::1", dst="ff02::2") / UDP(),
    "ARP": ARP(hwsrc="02:00:ff:02:00:01", psrc="192.0.2.1", pdst="192.0.2.2"),
}


@pytest.mark.parametrize("packet", FRAMES.values(), ids=FRAMES)
def test_frames_are_no_copies(packet):
    """F6: a frame to a MAC address that begins like an IP header is a frame."""
    for frame in alike(packet):
        assert seen(frame) == 1
