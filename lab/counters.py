"""What a host's kernel counts by itself: a truth about traffic that no probe has part in."""

from pathlib import Path
from typing import NamedTuple

from lab.netns import inside


class Sent(NamedTuple):
    """TCP segments that a host has sent, each segment of a super-packet counted (RFC 4022: tcpOutSegs, tcpRetransSegs).

    `segments` leaves out retransmissions of data, SYN and FIN; retransmitted SYN-ACKs are in both.
    """

    segments: int = 0
    retransmitted: int = 0

    def since(self, before: "Sent") -> "Sent":
        """Return what was sent between two readings."""
        return Sent(self.segments - before.segments, self.retransmitted - before.retransmitted)


def tcp_sent(netns: str) -> Sent:
    """Read the counters of a named network namespace, IPv4 and IPv6 together."""
    text = inside(netns, Path("/proc/thread-self/net/snmp").read_text)
    names, values = (line.split()[1:] for line in text.splitlines() if line.startswith("Tcp:"))
    counters = dict(zip(names, map(int, values), strict=True))
    return Sent(counters["OutSegs"], counters["RetransSegs"])
