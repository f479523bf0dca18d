"""What a host's kernel counts by itself: a truth about traffic that no probe has part in."""

from pathlib import Path
from typing import NamedTuple

from lab.linux.netns import inside


class Sent(NamedTuple):
    """TCP segments that a host has sent, each segment of a super-packet counted.

    `segments` leaves out retransmissions of data, SYN and FIN; retransmitted SYN-ACKs are in it and in `retransmitted`
    (tcpOutSegs, tcpRetransSegs of RFC 4022). `retransmitted_syns` counts SYN and SYN-ACK, `resets` segments with RST (tcpOutRsts).
    """

    segments: int = 0
    retransmitted: int = 0
    retransmitted_syns: int = 0
    resets: int = 0

    def since(self, before: "Sent") -> "Sent":
        """Return what was sent between two readings."""
        return Sent(*(now - then for now, then in zip(self, before, strict=True)))


def tcp_sent(netns: str) -> Sent:
    """Read the counters of a named network namespace, IPv4 and IPv6 together."""

    def read() -> Sent:
        tcp, extended = _table("snmp", "Tcp:"), _table("netstat", "TcpExt:")
        return Sent(tcp["OutSegs"], tcp["RetransSegs"], extended["TCPSynRetrans"], tcp["OutRsts"])

    return inside(netns, read)


def _table(name: str, prefix: str) -> dict[str, int]:
    """Read one line of numbers, and the line of names before it, from `/proc/net`."""
    lines = Path("/proc/thread-self/net", name).read_text().splitlines()
    names, values = (line.split()[1:] for line in lines if line.startswith(prefix))
    return dict(zip(names, map(int, values), strict=True))
