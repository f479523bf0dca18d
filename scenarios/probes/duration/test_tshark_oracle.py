"""The probe `duration` against tshark, an independent oracle, on the same connections."""

import socket
import struct
import subprocess
import time
from collections import defaultdict

import pytest
from support.processes import HUNG_S

from lab.linux.netns import inside
from lab.probes.duration.measure import lifetimes
from lab.tcp import Ended
from lab.traffic.demo.conversation import Conversation
from lab.truth.durations import truth_of
from lab.units import MS
from lab.verdict import Bracket, Judge

ETH_P_ALL, SO_TIMESTAMPNS, SO_RCVBUFFORCE = 3, 35, 33
FIELDS = ("tcp.stream", "tcp.srcport", "frame.time_epoch", "tcp.flags", "tcp.seq_raw", "tcp.analysis.retransmission")
FIN, SYN, RST, ACK = 1, 2, 4, 16


def tap(host):
    """Return a packet socket that captures every frame of a host's interface, with the kernel's time stamp."""
    sock = inside(host.name, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)))
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    inside(host.name, lambda: sock.bind(("eth0", ETH_P_ALL)))
    sock.setblocking(False)  # noqa: FBT003 (the socket's own signature)
    return sock


def save(sock, path):
    """Write the captured frames to a pcap file with nanoseconds (magic a1b23c4d)."""
    with sock, path.open("wb") as file:
        file.write(struct.pack("=IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 1 << 16, 1))
        while True:
            try:
                frame, ancillary, *_ = sock.recvmsg(1 << 16, 64)
            except BlockingIOError:
                return
            seconds, ns = struct.unpack("qq", ancillary[0][2])
            file.write(struct.pack("=IIII", seconds, ns, len(frame), len(frame)) + frame)


def wall_clock():
    """Return bounds of wall clock minus `CLOCK_MONOTONIC`, in nanoseconds. It changes only if the wall clock is set."""
    early_ns, now_ns, late_ns = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
    return now_ns - late_ns, now_ns - early_ns


def streams(path):
    """Return tshark's SYN, FIN and RST segments of each connection, by the client's port."""
    fields = [word for name in FIELDS for word in ("-e", name)]
    only = "tcp.flags.syn == 1 or tcp.flags.fin == 1 or tcp.flags.reset == 1"
    command = ["tshark", "-r", path, "-Y", only, "-T", "fields", *fields]
    process = subprocess.run(command, capture_output=True, text=True, timeout=HUNG_S, check=True)
    found = defaultdict(list)
    for line in process.stdout.splitlines():
        stream, port, epoch, flags, seq, again = line.split("\t")
        seconds, _, fraction = epoch.partition(".")
        time_ns = int(seconds) * 10**9 + int(fraction.ljust(9, "0"))
        found[int(stream)].append((int(port), time_ns, int(flags, 16), int(seq), bool(again)))
    return {rows[0][0]: rows for rows in found.values()}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    "conversation",
    [
        Conversation(hold_ns=20 * MS),
        Conversation(closer="server", how="shutdown", hold_ns=5 * MS, linger_ns=30 * MS),
        Conversation(how="rst", hold_ns=20 * MS),
    ],
    ids=["close", "half-close", "rst"],
)
def test_tshark_agrees(lab, tmp_path, version, conversation):
    """D1 to D3: tshark reports the same connections with the same segments, and its durations are in the same brackets.

    The packet socket takes its time stamps at another point than the probe. So both durations are judged by the truth;
    segments and counts must be equal.
    """
    taps = {host: tap(host) for host in (lab.net.client, lab.net.server)}
    before = wall_clock()
    observed = lab.converse(conversation, probes=("duration",), version=version, connections=20)
    after = wall_clock()
    step_low_ns, step_high_ns = min(0, after[0] - before[1]), max(0, after[1] - before[0])
    lab.judge("duration", observed)
    rows = lifetimes(observed.recording.events["duration"], observed.end_ns)
    judge, checks = Judge(lab.scenario, "tshark", "AF_PACKET"), []
    for host, sock in taps.items():
        path = tmp_path / f"{host.ifindex}.pcap"
        save(sock, path)
        seen = streams(path)
        by_port = {int(row["sport"]): row for row in rows if row["ifindex"] == host.ifindex}
        assert by_port.keys() == seen.keys()
        for connection in observed.connections:
            subject, port = str(connection.client.flow), connection.client.flow.lport
            truth, row, theirs = truth_of(connection, observed.end_ns), by_port[port], until_over(seen[port])
            start_ns = next(at_ns for _, at_ns, flags, *_ in theirs if flags & (SYN | ACK) == SYN)
            ends = [(at_ns, by) for by, at_ns, flags, *_ in theirs if flags & (FIN | RST)]
            low_ns = max(0, truth.first_end.low - truth.start.high) + step_low_ns
            high_ns = truth.first_end.high - truth.start.low + step_high_ns
            bracket = Bracket.middle(low_ns, high_ns)
            checks.append(judge.duration(subject, "first SYN to first FIN or RST", bracket, ends[0][0] - start_ns))
            first_by_client = int(row["closed_first"]) == 1
            checks.append(judge.equal(subject, "client first", str(first_by_client), str(ends[0][1] == port)))
            is_rst = any(flags & RST for _, _, flags, *_ in theirs)
            checks.append(judge.equal(subject, "reset", str(Ended(row["ended"]) is Ended.RST), str(is_rst)))
            again = [flags for _, _, flags, _, again in theirs if again]
            counts = sum(flags & (SYN | ACK) == SYN for flags in again), sum(flags & FIN for flags in again)
            ours = int(row["syn_retransmissions"]), int(row["fin_retransmissions"])
            checks.append(judge.equal(subject, "SYN and FIN again", str(ours), str(counts)))
        assert sorted(same_segments(observed, host)) == sorted(
            (port, flags & 7, seq) for rows in seen.values() for port, _, flags, seq, _ in rows
        )
    lab.check(checks)


def until_over(segments):
    """Return a connection's segments up to a RST or the second FIN; later ones are retransmissions or resets."""
    closed = set()
    for number, (port, _, flags, *_) in enumerate(segments, start=1):
        closed |= {port} if flags & FIN else set()
        if flags & RST or len(closed) == 2:
            return segments[:number]
    return segments


def same_segments(observed, host):
    """Return source port, SYN, FIN and RST flags, and sequence number of each segment recorded at a host."""
    events = observed.recording.events["duration"]
    here = events[events["ifindex"] == host.ifindex]
    return [(int(event["sport"]), int(event["flags"]) & 7, int(event["seq"])) for event in here]
