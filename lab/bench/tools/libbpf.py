"""libbpf-tools: BCC's tools written anew in C, compiled once for all kernels with BTF."""

from collections.abc import Iterable, Iterator

from lab.bench.tools import DURATION, FLOWS, RTT, STATES, LifeRow, Row, Scope, StateRow, Tool
from lab.units import MS

_LINES = ("stdbuf", "-oL")  # what it prints shall be seen when it is printed
_FOLDER = "/usr/sbin"


def states(output: str | Iterable[str]) -> Iterator[StateRow]:
    """Read a table of tcpstates, of libbpf-tools or of BCC, as a text or line by line.

    A process's name may contain spaces; a time that is not known is 0.000 too.
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
    """Read a table of tcplife, of libbpf-tools or of BCC."""
    for line in output.splitlines():
        words = line.split()
        if len(words) < 9 or not words[0].isdigit():
            continue
        laddr, lport, raddr, rport, _, _, lasted = words[-7:]
        yield LifeRow(laddr, int(lport), raddr, int(rport), round(float(lasted) * MS))


def nothing(_: str) -> Iterator[Row]:
    """Read nothing: of a tool that has not run anywhere where this was written, nobody knows what it prints."""
    yield from ()


def _tcpstates(scope: Scope) -> list[str]:
    return [*_LINES, f"{_FOLDER}/tcpstates", "-w", *by_lport(scope)]


def by_lport(scope: Scope) -> list[str]:
    """Return the options with which these tools are limited to a local port."""
    return [] if scope.lport is None else ["-L", str(scope.lport)]


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
    Tool("libbpf-tools tcprtt", RTT, lambda _: [*_LINES, f"{_FOLDER}/tcprtt"], nothing, ready="Tracing"),
    Tool("libbpf-tools tcptop", FLOWS, lambda _: [*_LINES, f"{_FOLDER}/tcptop", "-C", "1"], nothing, ready="LADDR"),
)
