"""TCP counters of a host's kernel: a reference for traffic that is independent of all probes."""

from pathlib import Path
from typing import NamedTuple

from lab.linux.netns import inside


class Sent(NamedTuple):
    """Numbers of TCP segments that a host has sent. Each segment of a super-packet counts.

    - `segments`: tcpOutSegs (RFC 4022). Without retransmissions of data, SYN and FIN; with retransmitted SYN-ACKs.
    - `retransmitted`: tcpRetransSegs (RFC 4022), with retransmitted SYN-ACKs.
    - `retransmitted_syns`: retransmitted SYNs and SYN-ACKs.
    - `resets`: tcpOutRsts, segments with RST.
    """

    segments: int = 0
    retransmitted: int = 0
    retransmitted_syns: int = 0
    resets: int = 0

    def since(self, before: "Sent") -> "Sent":
        """Return the numbers of segments between the reading `before` and this one."""
        return Sent(*(now - then for now, then in zip(self, before, strict=True)))


def tcp_sent(netns: str) -> Sent:
    """Return the counters of a named network namespace, IPv4 and IPv6 together."""

    def read() -> Sent:
        tcp, extended = _table("snmp", "Tcp:"), _table("netstat", "TcpExt:")
        return Sent(tcp["OutSegs"], tcp["RetransSegs"], extended["TCPSynRetrans"], tcp["OutRsts"])

    return inside(netns, read)


def counters(netns: str, file: str, prefix: str) -> dict[str, int]:
    """Return the counters of a named network namespace by name: `snmp` and `Tcp:`, `netstat` and `TcpExt:`."""
    return inside(netns, lambda: _table(file, prefix))


def _table(name: str, prefix: str) -> dict[str, int]:
    """Return the values by name of one pair of lines (names, values) of a file in `/proc/net`."""
    lines = Path("/proc/thread-self/net", name).read_text(encoding="utf-8").splitlines()
    names, values = (line.split()[1:] for line in lines if line.startswith(prefix))
    return dict(zip(names, map(int, values), strict=True))
