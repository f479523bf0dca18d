"""Runs as the suite, the demo and the bench leave them, made by hand: with wrong numbers, missed goals, and names that mean harm."""

import json
from pathlib import Path

import msgspec
import numpy as np

from lab.recording.recording import Recording
from lab.report import story
from lab.report.request_timeline import Stamp
from lab.report.story import Story
from lab.results.measurement import FILE, Goal, Measurement
from lab.results.writer import RUN
from lab.traffic.demo import conversation
from lab.verdict import Bracket, Check, Judge
from support.made.layers import CLIENT_NETNS, FLOW, PORT, SERVER_NETNS, Network, points, talk

HOSTILE = '</script><script>console.error("name")</script><img src=x onerror=console.error(1)>\u202e"&'
"""A process may have any name: this one is HTML, a script, and turns the direction of writing."""

ABOUT = {
    "schema": 1,
    "started": "2026-11-21T21:37:41.855863+00:00",
    "clock": "CLOCK_MONOTONIC",
    "time": "real",
    "attach": "best",
    "kernel": {"release": "6.18.44", "version": "#1 SMP PREEMPT_DYNAMIC"},
    "machine": {"architecture": "x86_64", "cpus": 2},
    "commit": "5dce6a2394dca035b425fcefcdfc131c96f68699+",
    "versions": {"python": "3.11.2", "bcc": None},
}

ATTACHED = {
    "states": "raw tracepoint:inet_sock_set_state, raw tracepoint:kfree_skb",
    "duration": "tc:egress (tcx), tc:ingress (tcx)",
    "rtt": "fentry:tcp_rcv_established",
    "packets": "xdp:frame (generic)",
}

PEERS = ("libbpf-tools tcpstates", "BCC tcpstates", "bpftrace")


def folder(path: Path, *, checks=(), measurements=(), recorded=False, stories=(), **about) -> Path:
    """Make a run's folder."""
    path.mkdir(parents=True)
    (path / RUN).write_text(json.dumps(ABOUT | about))
    (path / "checks.jsonl").write_text("".join(check.to_json() + "\n" for check in checks))
    if measurements:
        (path / FILE).write_text("".join(row.to_json() + "\n" for row in measurements))
    if stories:
        (path / story.FILE).write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in stories))
    if recorded:
        recording().save(path / "recording-1.npz")
    return path


def checks(seed: int = 1, wrong: int = 3, count: int = 40, slow: float = 1) -> list[Check]:
    """Return the checks of four probes in two scenarios, `wrong` of them wrong; `slow` times the usual errors."""
    random = np.random.default_rng(seed)
    found = []
    for scenario in ("test_conversation[client-4]", "test_conversation[client-6]"):
        for probe, place in ATTACHED.items():
            judge = Judge(scenario, probe, place)
            for number in range(count):
                subject = f"192.0.2.1:{40000 + number} -> 192.0.2.2:9999"
                low = 9_100_000_000_000_000 + int(random.integers(10**9))  # more than a double tells apart
                width = int(random.integers(50_000, 400_000))
                error = int(slow * random.lognormal(9, 1))
                found += [
                    judge.duration(
                        subject,
                        "time in ESTABLISHED",
                        Bracket.early(50_000_000, 50_000_000 + width),
                        50_000_000 + min(error, width),
                    ),
                    judge.duration(subject, "first SYN at", Bracket.early(low, low + width), low + min(error, width)),
                    judge.count(subject, "SYN retransmissions", Bracket.exactly(0), 0),
                    judge.equal(subject, "owner", HOSTILE, HOSTILE),
                ]
    judge = Judge("test_lost_syn[4]", "duration", ATTACHED["duration"])
    late = Bracket(1_020_000_000, 1_020_900_000, 1_020_100_000)
    found += [
        judge.duration(f"{HOSTILE} {number}", "first SYN to first FIN", late, 20_000_000 + number)
        for number in range(wrong - 1)
    ]
    if wrong:
        found.append(judge.equal("192.0.2.1:40000", "owner", "client", HOSTILE))
    return found


def stories(checks) -> list[Story]:
    """Return the story of each wrong check: calls of both sides, a frame, an event of the probe, a name that means harm."""
    return [
        Story(
            check,
            [
                Stamp(9_000_000, "client", "application", "connect() called"),
                Stamp(9_000_500, "wire", "frame", "SYN, seq 1, to the server: lost"),
                Stamp(9_000_700, "client", f"lab {check.probe}", "egress, SYN, 0 bytes"),
                Stamp(9_001_000, "server", "application", HOSTILE),
            ],
            left_out=1234,
        )
        for check in checks
        if not check.passed
    ]


def measurements(seed: int = 2, slow: float = 1) -> list[Measurement]:
    """Return every figure of a bench; `slow` times the usual cost."""
    random = np.random.default_rng(seed)

    def samples(median: float, spread: float = 0.04, count: int = 12) -> list[float]:
        return (median * slow * random.normal(1, spread, count)).tolist()

    rows = []
    for tool, ns, ratio, error in (
        ("lab states", 88, 0.93, 9),
        ("lab rtt", 131, 0.95, 8),
        ("libbpf-tools tcpstates", 10_010, 0.09, 10.5),
        ("BCC tcpstates", 8_750, 0.10, 11),
    ):
        ours = tool.startswith("lab ")
        cost, kept = (Goal(least=False, value=100), Goal(least=True, value=0.9)) if ours else (None, None)
        why = "each segment is a sample, and one in two wakes the histogram's line" if tool == "lab rtt" else ""
        rows += [
            Measurement("kernel cost", tool, "time per event", "ns", samples(ns), goal=cost, note=why),
            Measurement(
                "observer effect",
                tool,
                "connections/s, with to without",
                "ratio",
                samples(ratio / slow),
                {"connections": 1000},
                kept,
            ),
            Measurement(
                "start", tool, "start to first event possible", "ms", samples(222 if ours else 13), {"cold": False}
            ),
        ]
        rows += [
            Measurement(
                "accuracy",
                tool,
                "time in ESTABLISHED",
                "ns",
                random.lognormal(error, 1, 200).round().tolist(),
                {"delay": delay},
            )
            for delay in ("1 ms", "20 ms")
        ]
        rows += [
            Measurement("scale", tool, "time per event", "ns", samples(ns + n / 100), {"connections": n})
            for n in (10, 100, 1000, 10000)
        ]
        rows += [Measurement("corpus", tool, f"S{n}", "verdict", [1.0 if ours or n % 3 else 0.0]) for n in range(1, 8)]
    rows += [
        Measurement("accuracy", "bpftrace", "time in ESTABLISHED", "ns", refused=f"needs kprobes: {HOSTILE}"),
        Measurement("memory", "lab states", "resident, idle", "MB", samples(92), goal=Goal(least=False, value=150)),
        Measurement(
            "events",
            "lab states",
            "events/s without loss",
            "events/s",
            samples(7.1e6),
            goal=Goal(least=True, value=5e6),
        ),
        Measurement(
            "events",
            "lab flows",
            "events/s without loss",
            "events/s",
            goal=Goal(least=True, value=5e6),
            refused="has no events",
        ),
        Measurement("corpus", "bpftrace", "S1", "verdict", refused="needs kprobes"),
    ]
    return rows


def recording() -> Recording:
    """Return the points of some requests, to the port of the demo."""
    network = Network(1)
    network.open(FLOW, 8, 9)
    talk(network, FLOW, (8, 9), 5)
    rows = points(*network.rows)
    for name in ("sport", "dport"):
        rows[name][rows[name] == PORT] = conversation.PORT
    return Recording({"layers": rows}, devices={2: ("eth0", CLIENT_NETNS), 3: ("eth0", SERVER_NETNS)})
