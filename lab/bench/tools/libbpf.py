"""libbpf-tools: BCC's tools in C, compiled once for all kernels with BTF. BCC's own tools print the same formats."""

import re
from collections.abc import Iterable, Iterator
from itertools import zip_longest

from lab.bench.tools import DURATION, FLOWS, RTT, SEGMENTS, STATES, LifeRow, Row, RttRow, Scope, StateRow, Tool
from lab.log2_histogram import slot_of
from lab.units import MS

_LINES = ("stdbuf", "-oL")  # line-buffered output
_FOLDER = "/usr/sbin"
_PEER = re.compile(r"^Remote Addres\w* = (\S+) *\[AVG (\d+)\]", re.MULTILINE)
_BUCKET = re.compile(r"^ *(\d+) -> \d+ *: (\d+) ", re.MULTILINE)


def states(output: str | Iterable[str]) -> Iterator[StateRow]:
    """Parse the table of tcpstates (libbpf-tools or BCC), given as a text or as lines.

    A process name may contain spaces. tcpstates prints an unknown time as 0.000, too.
    """
    for line in output.splitlines() if isinstance(output, str) else output:
        words = line.split()
        if len(words) < 11 or words[-3] != "->" or not words[1].isdigit():
            continue
        laddr, lport, raddr, rport, old, _, new, spent = words[-8:]
        yield StateRow(
            words[0], int(words[1]), laddr, int(lport), raddr, int(rport), old, new, round(float(spent) * MS)
        )


def lives(output: str) -> Iterator[LifeRow]:
    """Parse the table of tcplife (libbpf-tools or BCC)."""
    for line in output.splitlines():
        words = line.split()
        if len(words) < 9 or not words[0].isdigit():
            continue
        laddr, lport, raddr, rport, _, _, lasted = words[-7:]
        yield LifeRow(laddr, int(lport), raddr, int(rport), round(float(lasted) * MS))


def round_trips(output: str) -> Iterator[RttRow]:
    """Parse the histograms of tcprtt (libbpf-tools or BCC) by remote address. Averages are whole microseconds."""
    found = list(_PEER.finditer(output))
    for peer, following in zip_longest(found, found[1:]):
        histogram = output[peer.end() : following.start() if following else None]
        slots = {slot_of(int(low)): int(count) for low, count in _BUCKET.findall(histogram) if int(count)}
        yield RttRow(peer[1], sum(slots.values()), int(peer[2]) * 1000, slots)


def nothing(_: str) -> Iterator[Row]:
    """Yield no rows: tcptop counts kilobytes of applications' calls, not packets or frames."""
    yield from ()


def _tcpstates(scope: Scope) -> list[str]:
    return [*_LINES, f"{_FOLDER}/tcpstates", "-w", *by_lport(scope)]


def by_lport(scope: Scope) -> list[str]:
    """Return the options that limit these tools to a local port."""
    return [] if scope.lport is None else ["-L", str(scope.lport)]


def by_rport(scope: Scope) -> list[str]:
    """Return the options that limit these tools to a remote port."""
    return [] if scope.rport is None else ["-P", str(scope.rport)]


TOOLS = (
    Tool("libbpf-tools tcpstates", STATES, _tcpstates, states, ready="SKADDR"),
    Tool(
        "libbpf-tools tcplife",
        DURATION,
        lambda _: [*_LINES, f"{_FOLDER}/tcplife", "-w"],
        lives,
        ready="LADDR",
        unit_ns=10_000,
    ),
    Tool(
        "libbpf-tools tcprtt",
        RTT,
        lambda scope: [*_LINES, f"{_FOLDER}/tcprtt", "-B", "-e", *by_rport(scope)],
        round_trips,
        SEGMENTS,
        ready="Tracing",
    ),
    Tool("libbpf-tools tcptop", FLOWS, lambda _: [*_LINES, f"{_FOLDER}/tcptop", "-C", "1"], nothing, ready="LADDR"),
)
