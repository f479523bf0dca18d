"""Packets at XDP ingress of both hosts: times, ports, flags and bytes, against the timelines of both applications.

X1, F3, L1, L3 and S6 are rows of the table in docs/truth.md.
"""

import re
import socket

import numpy as np
import pytest
from scapy.layers.inet import IP, TCP, UDP, IPOption_RR
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Raw
from support.mutants import caught, changed
from support.packet_taps import received_by

from lab import probes
from lab.ebpf.interface import Device
from lab.ebpf.program import Program
from lab.errors import LabError
from lab.linux import cpus
from lab.linux.netns import inside
from lab.observation import Observed
from lab.packet import PROBLEMS
from lab.paths import SOURCES
from lab.probes.packets import text as packet_text
from lab.recording.recorder import record
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse
from lab.units import MS

both_versions = pytest.mark.parametrize("version", [4, 6])
PACKETS = {"probes": ["packets"]}
MTU_FRAME = 1514
ICMPV6 = 58


@pytest.fixture
def watched(lab):
    """Return a function that records a conversation with a given program and given interfaces."""

    def watch(program, conversation=None, *, devices=None, lossy=False, **how):
        with record(programs={"packets": program}, devices=devices or lab.net.devices, lossy=lossy) as recorder:
            with converse(lab.net, conversation or Conversation(), **how) as demo:
                pass
            end_ns = lab.net.quiesce()
        return Observed(lab.net.inodes, recorder.recording, demo.connections, end_ns)

    return watch


@both_versions
@pytest.mark.parametrize("closer", ["client", "server", "both"])
def test_conversation(lab, version, closer):
    """SYN, data and FIN of each side arrive between the calls that cause and report them, and payload is exact."""
    conversation = Conversation(closer=closer, exchanges=3, hold_ns=10 * MS)
    checks = lab.judge("packets", lab.converse(conversation, version=version, **PACKETS))
    assert {check.attach_point for check in checks} == {"xdp:frame (generic)"}


@both_versions
def test_half_close(lab, version):
    """The server's FIN arrives when it closes, 60 ms after the client's."""
    observed = lab.converse(Conversation(how="shutdown", linger_ns=60 * MS), version=version, **PACKETS)
    checks = lab.judge("packets", observed)
    first, second = sorted(check.measured for check in checks if check.quantity == "FIN arrives at")
    assert second - first >= 60 * MS


@both_versions
@pytest.mark.parametrize("closer", ["client", "server", "both"])
def test_reset(lab, version, closer):
    """A RST arrives inside its bracket, and no FIN arrives."""
    observed = lab.converse(Conversation(closer=closer, how="rst", hold_ns=5 * MS), version=version, **PACKETS)
    lab.judge("packets", observed)


@both_versions
@pytest.mark.parametrize("source_port", [0, 40404])
def test_refused(lab, version, source_port):
    """The SYN arrives and its RST arrives, both during connect()."""
    observed = lab.converse(Conversation(), version=version, serve=False, source_port=source_port, **PACKETS)
    assert any(check.quantity == "RST arrives at" for check in lab.judge("packets", observed))


def test_200_connections_at_once(lab):
    """Every packet belongs to one of 200 connections, and the packets of each connection are complete."""
    lab.judge("packets", lab.converse(Conversation(exchanges=2), connections=200, **PACKETS))


def test_a_reused_flow(lab):
    """Successive connections of the same flow have their own packets."""
    lab.net.client.sysctl("ipv4/ip_local_port_range", "45001 45002")
    lab.net.client.sysctl("ipv4/tcp_tw_reuse", 1)
    observed = lab.converse(Conversation(closer="server"), connections=10, concurrency=1, **PACKETS)
    assert len({connection.client.flow for connection in observed.connections}) < 10
    lab.judge("packets", observed)


@both_versions
@pytest.mark.parametrize("mode", ["generic", "native"])
def test_modes(lab, watched, mode, version):
    """Payload of 2 MB is exact in both modes. Generic XDP receives super-frames, native XDP none above the MTU."""
    devices = [device._replace(mode=mode) for device in lab.net.devices]
    conversation = Conversation(size_bits=16_000_000)
    observed = watched(Program.load("packets"), conversation, devices=devices, version=version)
    checks = lab.check(probes.judge("packets", observed, lab.scenario))
    assert {check.attach_point for check in checks} == {f"xdp:frame ({mode})"}
    largest = observed.recording.events["packets"]["frame_length"].max()
    assert (largest > MTU_FRAME) == (mode == "generic")


def test_auto_is_generic_where_the_driver_has_no_native_xdp(lab):
    """A bridge's driver has no native XDP: `auto` chooses generic, and `native` is refused."""
    program = Program.load("packets")
    with program.attached([Device.find("wire", lab.net.wire)]):
        assert program.attach_points == ["xdp:frame (generic)"]
    native = program.attached([Device.find("wire", lab.net.wire, "native")])
    with pytest.raises(LabError, match="`wire` cannot have native XDP"), native:
        pass


@pytest.mark.parametrize(("port", "source_port"), [(80, 20480), (20480, 80), (1, 65535), (9999, 3879)])
@both_versions
def test_ports_in_the_right_order(lab, watched, version, port, source_port):
    """S6: ports that are each other's byte swap, and the smallest and largest ports, equal those of the sockets."""
    program = Program.load("packets", (f"PORT={port}",))
    lab.check(
        probes.judge("packets", watched(program, port=port, source_port=source_port, version=version), lab.scenario)
    )


def test_other_ports_are_ignored(watched):
    """A conversation on the byte swap of the given port has no events."""
    assert len(watched(Program.load("packets", ("PORT=3879",))).recording.events["packets"]) == 0


def test_full_ring_leaves_traffic_alone(lab, tmp_path):
    """X1: with an unread ring of one page the conversation completes; each frame is delivered or counted as lost."""
    text, count = re.subn(r"(BPF_RINGBUF_OUTPUT\(events, )\d+", r"\g<1>1", (SOURCES / "packets.c").read_text())
    assert count == 1
    source = tmp_path / "tiny.c"
    source.write_text(text)
    program = Program(source)
    hosts = (lab.net.client, lab.net.server)
    with received_by(*hosts) as frames, program.attached(lab.net.devices):
        with converse(lab.net, Conversation(exchanges=200)) as demo:
            pass
        lab.net.quiesce()
    (connection,) = demo.connections
    for timeline in (connection.client, connection.server):
        assert {call.error for call in timeline.calls} == {""}
        assert sum(call.result for call in timeline.calls if call.name == "recv") == 200 * 375
    delivered = len(program.ring.drain())
    assert 0 < delivered < 60 * len(cpus.online())
    assert delivered + program.lost() == sum(TCP in Ether(frame) for frame in frames)


def test_order(lab, watched):
    """L1: the recording is sorted by kernel time, although packets arrive on several CPUs."""
    observed = watched(Program.load("packets"), Conversation(exchanges=20), connections=50, concurrency=8)
    times = observed.recording.events["packets"]["time_ns"].astype(np.int64)
    assert len(times) > 50 * 20 * 2
    assert (np.diff(times) >= 0).all()
    lab.check(probes.judge("packets", observed, lab.scenario))


# The destination is the MAC address of no host, so nothing answers.
ETHERNET = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
V4, V6 = IP(src="192.0.2.7", dst="192.0.2.8"), IPv6(src="2001:db8::7", dst="2001:db8::8")
ON_THE_WIRE = {
    "VLAN": (ETHERNET / Dot1Q(vlan=7) / V4 / UDP(sport=5, dport=9999), {"vlan": 7, "sport": 5, "dport": 9999}),
    "QinQ": (
        ETHERNET / Dot1AD(vlan=7) / Dot1Q(vlan=8) / V6 / TCP(sport=9999, dport=5, seq=1, ack=2, flags="SA"),
        {"vlan": 7, "inner_vlan": 8, "sport": 9999, "dport": 5, "seq": 1, "ack": 2, "flags": 0x12},
    ),
    "IP options": (
        ETHERNET / IP(src="192.0.2.7", dst="192.0.2.8", options=[IPOption_RR(routers=["192.0.2.9"])]) / TCP(sport=9999),
        {"sport": 9999, "dport": 80},
    ),
    "IPv6 extension headers": (
        ETHERNET / V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrFragment(m=1) / UDP(sport=9999, dport=5) / Raw(b"x" * 16),
        {"sport": 9999, "dport": 5, "fragment": 1, "payload_length": 16},
    ),
    "later fragment": (
        ETHERNET / IP(src="192.0.2.7", dst="192.0.2.8", frag=9, proto=17) / Raw(b"\x27\x0f" * 20),
        {"sport": 0, "dport": 0, "fragment": 1, "problem": PROBLEMS.index("later fragment")},
    ),
    "padding": (
        Raw(bytes(ETHERNET / V4 / UDP(sport=9999, dport=5)) + bytes(18)),
        {"sport": 9999, "dport": 5, "payload_length": 0, "frame_length": 60},
    ),
}


def test_frames_on_the_wire(lab):
    """F3: frames with tags, options, extension headers, fragments and padding are parsed correctly."""
    with record(
        programs={"packets": Program.load("packets", ("PORT=0",))}, devices=[lab.net.server.device]
    ) as recorder:
        with inside(lab.net.wire, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as wire:
            wire.bind(("server", 0))
            for frame, _ in ON_THE_WIRE.values():
                wire.send(bytes(frame))
        lab.net.quiesce()
    seen = recorder.recording.events["packets"]
    seen = seen[seen["protocol"] != ICMPV6]  # a host may send MLD reports
    assert len(seen) == len(ON_THE_WIRE)
    for row, (frame, truth) in zip(seen, ON_THE_WIRE.values(), strict=True):
        assert {name: row[name] for name in truth} == truth
        assert row["frame_length"] == len(bytes(frame))


def tagged_in_metadata(lab, program):
    """Record the server's interface, and return the row of a frame whose VLAN tag is in the skb's metadata, and the frame."""
    frame = Ether(src=lab.net.client.mac, dst=lab.net.server.mac) / Dot1Q(vlan=7) / V4 / UDP(sport=5, dport=9999)
    with record(programs={"packets": program}, devices=[lab.net.server.device]) as recorder:
        with inside(lab.net.client.name, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as sender:
            sender.bind(("eth0", 0))
            sender.send(bytes(frame))
        lab.net.quiesce()
    (seen,) = recorder.recording.events["packets"]
    return seen, frame


def test_a_tag_in_the_metadata(lab):
    """F3: XDP cannot read a VLAN tag that the kernel moved to the skb's metadata; the ports are correct."""
    seen, frame = tagged_in_metadata(lab, Program.load("packets"))
    assert (seen["sport"], seen["dport"], seen["vlan"]) == (5, 9999, 0)
    assert seen["frame_length"] == len(bytes(frame)) - 4


def test_a_tag_in_the_metadata_at_tc(lab):
    """F3: TC reads a VLAN tag that the kernel moved to the skb's metadata."""
    seen, _ = tagged_in_metadata(lab, Program.load("packets", ("AT_TC=1",)))
    assert (seen["sport"], seen["dport"], seen["vlan"]) == (5, 9999, 7)


@both_versions
def test_at_tc(lab, watched, version):
    """At TC the times, flags and bytes of segments are as right as at XDP."""
    observed = watched(Program.load("packets", ("AT_TC=1",)), Conversation(exchanges=3), version=version)
    checks = lab.check(probes.judge("packets", observed, lab.scenario))
    assert all(check.attach_point.startswith("tc:ingress") for check in checks)


@both_versions
def test_fragments_that_the_kernel_made(lab, version):
    """F3: the first of three fragments has its port, and the other two are counted as unreadable."""
    family = {4: socket.AF_INET, 6: socket.AF_INET6}[version]
    with record("packets", devices=[lab.net.server.device]) as recorder:
        with inside(lab.net.client.name, lambda: socket.socket(family, socket.SOCK_DGRAM)) as sender:
            sender.sendto(bytes(4000), (lab.net.server.address(version), 9999))
        lab.net.quiesce()
    (first,) = recorder.recording.events["packets"]
    assert (first["dport"], first["fragment"], first["frame_length"]) == (9999, 1, MTU_FRAME if version == 4 else 1510)
    assert packet_text.unreadable(recorder.recording.totals["packets"]).count(": 2 later fragment (") == 1


WRONG = {
    "ports swapped": (
        (
            r"sport = packet->sport;\n +frame->dport = packet->dport",
            "dport = packet->sport;\n frame->sport = packet->dport",
        ),
        {"SYN numbers", "packets of no connection"},
    ),
    "S6: ports in the wrong byte order": (
        (r"dport = packet->dport", "dport = bpf_htons(packet->dport)"),
        {"SYN numbers", "packets of no connection"},
    ),
    "stamps 2 ms late": (
        (r"bpf_ktime_get_ns\(\)", "bpf_ktime_get_ns() + 2000000"),
        {"SYN arrives at", "SYN-ACK arrives at"},
    ),
    "L3: another clock": ((r"bpf_ktime_get_ns\(\)", "bpf_ktime_get_boot_ns() + 10000000000"), {"SYN arrives at"}),
    "every 7th packet missing": (
        (r"time_ns = bpf_ktime_get_ns\(\);", r"\g<0>\n    if (time_ns % 7 == 0)\n        return XDP_PASS;"),
        {"payload bytes"},
    ),
    "payload with its header": ((r"end - packet->payload_at", "end - packet->transport_at"), {"payload bytes"}),
    "flags of another byte": ((r"flags = packet->flags", "flags = packet->flags >> 1"), {"SYN numbers", "ends with"}),
    "sequence number in network order": (
        (r"seq = packet->seq", "seq = bpf_htonl(packet->seq)"),
        {"first data arrives at"},
    ),
}


@pytest.mark.parametrize(("change", "quantities"), WRONG.values(), ids=WRONG)
def test_wrong_probe_is_caught(lab, watched, tmp_path, change, quantities):
    """The judge finds the wrong quantities of each mutant."""
    observed = watched(changed(tmp_path, "packets", change), connections=50, concurrency=5)
    assert quantities <= caught(probes.judge("packets", observed, lab.scenario))
