"""The rows of the truth corpus in words: what a tool must report to be right.

What lives here: the words that tables and reports print. What does not: the cases (`lab/judging/cases`), and the chapter of
the bench from which O1 and X2 come (`lab/bench/chapters/observer_effect.py`).
"""

RIGHT_IF = {
    "D1": "a duration starts with the first SYN, also if that one is lost and TCP repeats it",
    "D2": "a connection that is reset, and one that is refused, have a duration",
    "D3": "after a half-close, a duration ends with the first or with the second FIN",
    "F1": "super-packets (GSO, GRO) count as the packets that are on the wire",
    "F2": "each packet counts once, with its bytes",
    "F3": "packets with VLAN tags, IP options, extension headers, and fragments count for their own flow, without made-up ports",
    "F3D": "a connection behind VLAN tags, IP options or extension headers is reported",
    "F4": "of thousands of flows or connections at once each is reported, or the number of the missing ones",
    "F5": "an ARP packet is reported as ARP",
    "N1": "every number of an ordinary connection is true",
    "N6": "every number of an ordinary connection over IPv6 is true",
    "O1": "the tool does not slow down what it observes: connections per second with it are not provably below 90 % of those without",
    "P1": "a packet to a closed port is reported as dropped",
    "R1": "two IPv6 peers have a histogram each",
    "R2": "of thousands of peers each has a histogram, or the number of the missing ones is reported",
    "R3": "no value is missing from a histogram to which two processors add, and its mean is right",
    "R4": "a value slightly above the lower edge of a bucket is in a bucket that contains it",
    "R5": "after a step of the delay, samples show the whole step, and a smoothed RTT follows RFC 6298",
    "S1": "SYN_RECV of a passive open lasts from the SYN-ACK to its ACK, a round trip, not microseconds",
    "S2": "FIN_WAIT2 lasts until the peer's FIN, and TIME_WAIT follows, although a timewait minisock replaces the socket",
    "S3": "the first row of a socket has no time: the state before is unknown, and not 0 long",
    "S4": "a filter by the local port keeps SYN_SENT, which begins before connect() has chosen the port",
    "S5": "no state is longer than the longest connection: a reused socket address does not inherit an old time",
    "S6": "ports are in the right byte order",
    "S7": "the process is the owner of the socket, or unknown, not the one that was interrupted",
    "T2": "each segment that is sent again is reported once",
    "T4": "a SYN and a SYN-ACK that are sent again are reported",
    "X2": "XDP on a veth device does not slow down bulk data: its rate is not provably below 90 % of that without the tool",
}
"""By row: the condition. A rate is provably below if the whole 95 % interval of its median is."""


def right_if(row: str) -> str:
    """Return the condition of a row; "" for a row of another version."""
    return RIGHT_IF.get(row, "")
