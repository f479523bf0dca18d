"""Rare, easily misread and broken frames with every probe attached: all are parsed correctly, and none is changed.

F3, F5 and X1 are rows of the table in docs/truth.md. The frames, with the truth about each, are
in lab/traffic/crafted/unusual_frames.py.
"""

import random
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
from support.datagrams import log_of
from support.frame_strategies import broken, ports_by_scapy
from support.packet_taps import received_by

from lab import probes
from lab.ebpf.program import Program
from lab.network.relay import Relay
from lab.network.topology import topology
from lab.packet import FIN, PROBLEMS, RST, SYN, Problem
from lab.probes.flows import measure
from lab.probes.flows.measure import Direction
from lab.probes.flows.text import as_dict
from lab.probes.packets import text
from lab.recording.recorder import record
from lab.tcp import address_text
from lab.traffic.crafted.send import send
from lab.traffic.crafted.unusual_frames import LONGEST, Ends, lacks_tag, unusual

SNAPLEN = 256
EVERY_FRAME = ("PORT=0", f"SNAPLEN={SNAPLEN}")
BROKEN = 3000
AT_ONCE = 500
UNUSED = Ends()


@pytest.fixture(scope="module")
def net():
    """Create one network that carries the largest frames of the catalogue, for all scenarios of this module.

    The link is the relay: a bridge removes a VLAN tag from the frame, so that XDP cannot see it.
    """
    with topology(Relay(), mtu=LONGEST) as net:
        yield net


@contextmanager
def all_probes(net):
    """Record with every probe at both hosts; `packets` reports all ports and the beginning of each frame."""
    names = [name for name in probes.here() if name != "packets"]
    everything = {"packets": Program.load("packets", EVERY_FRAME)}
    with record(*names, programs=everything, devices=net.devices) as recorder:
        yield recorder


def carried(net, frames):
    """Send frames from the client; return the frames that arrive at the server's interface.

    They are sent in portions: a busy processor queues 1,000 frames (net.core.netdev_max_backlog) and drops further
    ones.
    """
    expected = len(net.link.log().frames)
    with received_by(net.server) as arrived:
        for start in range(0, len(frames), AT_ONCE):
            portion = frames[start : start + AT_ONCE]
            sent = send(net.client.name, portion)
            expected += sum(not lacks_tag(frame) for frame in portion)
            log_of(net, expected)
            net.quiesce()
            assert (sent.before_ns <= sent.after_ns).all()
    return arrived


@pytest.fixture(scope="module", params=["unused address", "the server"])
def seen(request, net):
    """Send the catalogue to an unused address or to the server; return frames, arrived frames and the recording."""
    server = Ends(destination4=net.server.ipv4, destination6=net.server.ipv6)
    frames = list(unusual(UNUSED if request.param == "unused address" else server))
    with all_probes(net) as recorder:
        arrived = carried(net, [frame.data for frame in frames])
    return frames, arrived, recorder.recording


def test_nothing_is_changed(seen):
    """X1: with all probes attached, each frame arrives once and unchanged, and no event is lost."""
    frames, arrived, recording = seen
    assert Counter(arrived) == Counter(frame.data for frame in frames if not lacks_tag(frame.data))
    assert not any(recording.lost.values())


def test_packets(net, seen):
    """F3: XDP sees each frame once, with its ports or with no ports and the right reason, and with its length."""
    frames, _, recording = seen
    rows = by_beginning(recording, net.server)
    for frame in frames:
        if lacks_tag(frame.data):
            continue
        (row,) = text.as_dicts(np.atleast_1d(rows.pop(beginning(frame.data))))
        is_tcp = not frame.problem and frame.protocol == "TCP"
        expected = {
            "source_port": None if frame.problem else frame.sport,
            "destination_port": None if frame.problem else frame.dport,
            "problem": PROBLEMS[frame.problem] or None,
            "vlan": (*frame.vlans, None)[0],
            "inner_vlan": (*frame.vlans, None, None)[1],
            "seq": frame.seq if is_tcp else None,
            "ack": frame.ack if is_tcp else None,
            "payload_length": None if frame.problem else frame.payload,
            "frame_length": len(frame.data),
            "fragment": frame.fragment,
        }
        if ":" not in frame.source or frame.source.startswith("2001:"):
            expected |= {"source_address": frame.source, "destination_address": frame.destination}
        assert {name: row[name] for name in expected} == expected, frame.name
    assert not rows


def beginning(frame):
    """Return the beginning and the length of a frame: a unique key, since processors may reorder frames."""
    return frame[:SNAPLEN], len(frame)


def by_beginning(recording, host):
    """Return the rows of `packets` at a host by the beginning and the length of their frames."""
    rows = recording.events["packets"]
    rows = rows[rows["ifindex"] == host.ifindex]
    shown = [row["bytes"].tobytes()[: int(row["frame_length"])] for row in rows]
    return {(data, int(row["frame_length"])): row for data, row in zip(shown, rows, strict=True)}


@pytest.mark.parametrize("side", ["client", "server"])
def test_flows(net, seen, side):
    """F3, F5: TC counts each frame under its protocol, endpoints and VLAN tags, at egress and at ingress."""
    frames, _, recording = seen
    host, direction = (net.client, Direction.EGRESS) if side == "client" else (net.server, Direction.INGRESS)
    expected = Counter()
    for frame in frames:
        if side == "client" or not lacks_tag(frame.data):
            expected += counted(frame)
    totals = recording.totals["flows"]
    totals = totals[(totals["ifindex"] == host.ifindex) & (totals["direction"] == direction)]
    reported = Counter()
    for row in measure.from_first_sender(measure.connections(totals)):
        fields = as_dict(row, {})
        ends = ("source_address", "destination_address", "source_port", "destination_port")
        names = ("protocol", *ends, "problem", "vlan", "inner_vlan")
        for what in ("packets", "bytes", "payload_bytes"):
            reported[*(fields[name] for name in names), what] += fields[what]
    assert +reported == +expected


def counted(frame):
    """Return what `flows` must count for a frame. Its payload ends with the frame, whatever length the IP header has."""
    ports = (None, None) if frame.problem else (frame.sport, frame.dport)
    why = Problem(frame.problem).name.lower() if frame.problem else None
    vlans = (*frame.vlans, None, None)[:2]
    key = (frame.protocol, frame.source, frame.destination, *ports, why, *vlans)
    return Counter({(*key, "packets"): 1, (*key, "bytes"): len(frame.data), (*key, "payload_bytes"): frame.payload})


def test_duration(net, seen):
    """F3: `duration` reports SYN, FIN and RST of complete TCP headers only, each at both interfaces."""
    frames, _, recording = seen
    ends = SYN | FIN | RST
    segments = [frame for frame in frames if frame.protocol == "TCP" and not frame.problem and frame.flags & ends]
    expected = Counter(
        (frame.source, frame.destination, frame.sport, frame.dport, frame.seq, frame.flags) for frame in segments
    )
    rows = recording.events["duration"]
    for host, ingress in ((net.client, 0), (net.server, 1)):
        here = rows[(rows["ifindex"] == host.ifindex) & (rows["ingress"] == ingress)]
        assert Counter(map(segment_of, here)) == expected


def segment_of(row):
    """Return the fields of a segment that `duration` reports."""
    ends = tuple(address_text(row[name].tobytes()) for name in ("saddr", "daddr"))
    return (*ends, *(int(row[name]) for name in ("sport", "dport", "seq", "flags")))


def test_sockets(net, seen):
    """F3: the socket probes report no connection or port that is not in these frames."""
    frames, _, recording = seen
    ports = {(frame.dport, frame.sport) for frame in frames if not frame.problem}
    for name in ("states", "rtt", "analyse"):
        for rows in (recording.events[name], recording.totals.get(name, ())):
            mine = [row for row in rows if "lport" in row.dtype.names and row["netns"] in net.inodes]
            reported = {(int(row["lport"]), int(row["rport"])) for row in mine}
            assert reported <= ports | {(lport, 0) for lport, _ in ports}, name


def test_broken_frames(net):
    """F3, X1: broken frames arrive unchanged.

    Their ports are those that scapy reads, or there are no ports and a reason.
    """
    chance = random.Random(4)  # noqa: S311 (no secret)
    whole = [frame.data for frame in unusual() if len(frame.data) < LONGEST]
    frames = [broken(chance.choice(whole), chance) for _ in range(BROKEN)]
    with all_probes(net) as recorder:
        arrived = carried(net, frames)
    assert Counter(arrived) == Counter(frame for frame in frames if not lacks_tag(frame))
    rows = by_beginning(recorder.recording, net.server)
    assert rows.keys() == set(map(beginning, arrived))
    readable = 0
    for frame in arrived:
        row = rows[beginning(frame)]
        expected = (0, 0) if row["problem"] else ports_by_scapy(frame)
        assert (int(row["sport"]), int(row["dport"])) == expected, frame.hex()
        readable += not row["problem"]
    assert readable > BROKEN / 10
