"""Packet capture tools at one interface: tcpdump and tshark."""

import re
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from lab.bench.tools import DURATION, FLOWS, FRAMES, RTT, FlowRow, LifeRow, RttRow, Scope, Tool
from lab.log2_histogram import slot_of
from lab.units import SECOND

_PACKET = re.compile(
    r", (?P<outer>[\w.-]+), length (?P<length>\d+): (?:vlan \d+, p \d+(?:, DEI)?, (?P<inner>[\w.-]+), )*"
    r"(?:(?P<source>\S+) > (?P<destination>\S+): )?(?:[^>]* (?P<sport>\d+) > (?P<dport>\d+): )?"
)
_ENDS = ("ip.src", "ipv6.src", "tcp.srcport", "ip.dst", "ipv6.dst", "tcp.dstport")
_FLAGS = ("tcp.flags.syn", "tcp.flags.ack", "tcp.flags.fin", "tcp.flags.reset")


def packets(output: str) -> Iterator[FlowRow]:
    """Parse tcpdump's lines. Yield one row per pair of ends, with packets and the bytes of whole frames."""
    sums: dict[tuple[str, str, str, tuple[int, int] | None], list[int]] = defaultdict(lambda: [0, 0])
    for line in output.splitlines():
        if found := _PACKET.search(line):
            source, sport = _end(found["source"] or "")
            destination, dport = _end(found["destination"] or "")
            if found["sport"]:  # after extension headers tcpdump prints ports apart from the addresses
                sport, dport = found["sport"], found["dport"]
            ports = (int(sport), int(dport)) if sport and dport else None
            row = sums[found["inner"] or found["outer"], source, destination, ports]
            row[0] += 1
            row[1] += int(found["length"])
    for (protocol, source, destination, ports), (count, size) in sums.items():
        yield FlowRow(protocol, source, destination, count, size, ports)


def _end(text: str) -> tuple[str, str]:
    """Split tcpdump's `address.port`. The port is empty if there is none."""
    address, _, port = text.rpartition(".")
    return (address, port) if port.isdecimal() and (":" in address or address.count(".") == 3) else (text, "")


def lives(output: str) -> Iterator[LifeRow]:
    """Parse tshark's fields. Yield the time from each connection's first SYN to its first FIN or RST."""
    begun: dict[tuple[str, int, str, int], int] = {}
    for line in output.splitlines():
        fields = line.split("\t")
        if len(fields) != 1 + len(_ENDS) + len(_FLAGS):
            continue
        at_ns = _ns(fields[0])
        here, there = ((fields[n] or fields[n + 1], int(fields[n + 2])) for n in (1, 4))
        syn, ack, fin, rst = (field in ("1", "True") for field in fields[7:])
        if syn and not ack:
            begun.setdefault((*here, *there), at_ns)
        elif fin or rst:
            for flow in ((*here, *there), (*there, *here)):
                if flow in begun:
                    yield LifeRow(*flow, at_ns - begun.pop(flow))


def round_trips(output: str) -> Iterator[RttRow]:
    """Parse tshark's times from segment to acknowledgement, by the address of the acknowledging host."""
    samples: dict[str, list[int]] = defaultdict(list)
    for line in output.splitlines():
        fields = line.split("\t")
        if len(fields) == 3 and fields[2]:
            samples[fields[0] or fields[1]].append(_ns(fields[2]))
    for key, times_ns in samples.items():
        slots, counts = np.unique([slot_of(ns // 1000) for ns in times_ns], return_counts=True)
        yield RttRow(
            key, len(times_ns), float(np.mean(times_ns)), dict(zip(slots.tolist(), counts.tolist(), strict=True))
        )


def _ns(text: str) -> int:
    """Return seconds as integer nanoseconds. A float has too few digits for a time of day in nanoseconds."""
    seconds, _, rest = text.partition(".")
    return int(seconds) * SECOND + int(rest.ljust(9, "0")[:9])


def _tshark(scope: Scope, *fields: str) -> list[str]:
    shown = [word for field in fields for word in ("-e", field)]
    wanted = "tcp" if scope.rport is None else f"tcp.port == {scope.rport}"
    return ["tshark", "-n", "-l", "-i", scope.ifname, "-Y", wanted, "-T", "fields", *shown]


TOOLS = (
    Tool(
        "tcpdump",
        FLOWS,
        lambda scope: ["tcpdump", "-n", "-l", "-e", "-q", "-i", scope.ifname],
        packets,
        FRAMES,
        ready="listening on",
        enters=True,
    ),
    Tool(
        "tshark duration",
        DURATION,
        lambda scope: _tshark(scope, "frame.time_epoch", *_ENDS, *_FLAGS),
        lives,
        FRAMES,
        ready="Capture started",
        enters=True,
    ),
    Tool(
        "tshark rtt",
        RTT,
        lambda scope: _tshark(scope, "ip.src", "ipv6.src", "tcp.analysis.ack_rtt"),
        round_trips,
        FRAMES,
        ready="Capture started",
        samples=True,
        enters=True,
    ),
)
