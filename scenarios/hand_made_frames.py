"""Segments made by hand and sent over the lab's wire between two hosts that do not exist, so that no kernel answers.

What lives here: playing the stories of pure/hand_made_segments.py on the wire, each send stamped. What does not: what they mean.
"""

import socket
import sys
import time
from pathlib import Path

from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from lab.netns import inside
from lab.settle import settle

sys.path.append(str(Path(__file__).parent / "pure"))
from hand_made_segments import exchange

ETH_P_ALL = 3
PACKET_OUTGOING = 4
PORT = 80


def addresses(version):
    """Nobody's addresses in the lab's networks, the client's first: frames for them are dropped without a word."""
    return {4: ("192.0.2.51", "192.0.2.52"), 6: ("2001:db8::51", "2001:db8::52")}[version]


def play(net, stories, version, *, vlan=0, options=False, first_port=30000):
    """Play stories (words), each with a client's port of its own, all at the same pace.

    Returns for each its port, and for each of its words the time before it was sent and a time at which it had passed both
    hosts. With `options`, IP's own header is not of its usual length; short frames are padded as on a real network.
    """
    sockets = {host: _socket(host) for host in (net.client, net.server)}
    words = [story.split() for story in stories]
    frames = [
        [_frame(net, row, word, version, vlan, first_port + number, options) for row, word in _rows(story)]
        for number, story in enumerate(stories)
    ]
    stamps = [[] for _ in stories]
    try:
        for step in range(max(map(len, words))):
            for number, story in enumerate(words):
                if step < len(story):
                    here, there = (net.client, net.server) if story[step][0] == "c" else (net.server, net.client)
                    before_ns = time.monotonic_ns()
                    sockets[here].send(frames[number][step])
                    while sockets[there].recvfrom(2048)[1][2] == PACKET_OUTGOING:
                        pass  # nothing else is on the wire
                    stamps[number].append(before_ns)
            settle()  # the socket gets a frame before TC does
            passed_ns = time.monotonic_ns()
            for number, story in enumerate(words):
                if step < len(story):
                    stamps[number][step] = (stamps[number][step], passed_ns)
    finally:
        for sock in sockets.values():
            sock.close()
    return {first_port + number: times for number, times in enumerate(stamps)}


def _rows(story):
    return zip(exchange(story, isns=(0xFFFFFFF0, 7)), story.split(), strict=True)


def _socket(host):
    sock = inside(host.name, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)))
    sock.settimeout(20)
    inside(host.name, lambda: sock.bind(("eth0", ETH_P_ALL)))
    return sock


def _frame(net, row, word, version, vlan, port, options):
    client, server = addresses(version)
    from_client = word[0] == "c"
    source, destination = (client, server) if from_client else (server, client)
    macs = (net.client.mac, net.server.mac) if from_client else (net.server.mac, net.client.mac)
    frame = Ether(src=macs[0], dst=macs[1])
    if vlan:
        frame /= Dot1Q(vlan=vlan)
    if version == 4:
        frame /= IP(src=source, dst=destination, options=[b"\x01" * 4] if options else [])
    else:
        frame /= IPv6(src=source, dst=destination)
        if options:
            frame /= IPv6ExtHdrDestOpt()
    ports = (port, PORT) if from_client else (PORT, port)
    flags = int(row["flags"])
    frame /= TCP(sport=ports[0], dport=ports[1], flags=flags, seq=int(row["seq"]), ack=int(row["ack"]))
    if row["payload_length"]:
        frame /= Raw(b"x" * int(row["payload_length"]))
    return bytes(frame).ljust(60, b"\0")
