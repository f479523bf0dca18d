"""Scripts between a kernel's TCP and a crafted one (lab/traffic/crafted/tcp_peer.py), each with the truth about it.

What lives here: the scripts. What does not: expectations of a single probe.
"""

from typing import NamedTuple

from lab.tcp import Ended, Side

C, S, NOBODY = Side.CLIENT, Side.SERVER, Side.NOBODY
OPENED = "SYN_RECV:cA ESTABLISHED:cA"


class Case(NamedTuple):
    """A script, the kernel's states with the word of the script that causes each, and how the connection ended."""

    script: str
    states: str
    ended: Ended
    closed_first: Side
    syns_again: int = 0
    fins_again: int = 0


CLIENT_SCRIPTED = {
    "RST in SYN_RECV": Case("cS sSA 5ms cR", "", Ended.RST, C),
    "RST in ESTABLISHED": Case("cS sSA 20ms cA accept() 20ms cR", f"{OPENED} CLOSE:cR", Ended.RST, C),
    "RST in CLOSE_WAIT": Case("cS sSA cA accept() 5ms cF sA 5ms cR", f"{OPENED} CLOSE_WAIT:cF CLOSE:cR", Ended.RST, C),
    "RST in LAST_ACK": Case(
        "cS sSA cA accept() cF sA 5ms close() sF cR",
        f"{OPENED} CLOSE_WAIT:cF LAST_ACK:close() CLOSE:cR",
        Ended.FIN,
        C,
    ),
    "RST in FIN_WAIT1": Case(
        "cS sSA cA accept() 5ms shutdown() sF cR", f"{OPENED} FIN_WAIT1:shutdown() CLOSE:cR", Ended.RST, S
    ),
    "RST in FIN_WAIT2": Case(
        "cS sSA cA accept() 5ms shutdown() sF cA 5ms cR",
        f"{OPENED} FIN_WAIT1:shutdown() FIN_WAIT2:cA CLOSE:cR",
        Ended.RST,
        S,
    ),
    "RST to a minisock in FIN_WAIT2": Case(
        "cS sSA cA accept() 5ms close() sF cA 5ms cR",
        f"{OPENED} FIN_WAIT1:close() FIN_WAIT2:cA CLOSE:cR",
        Ended.RST,
        S,
    ),
    "RST in CLOSING": Case(
        "cS sSA cA accept() 5ms shutdown() cF sF sA 5ms cR",
        f"{OPENED} FIN_WAIT1:shutdown() CLOSING:cF CLOSE:cR",
        Ended.FIN,
        S,
    ),
    "RST in TIME_WAIT": Case(
        "cS sSA cA accept() 5ms close() sF cA 5ms cF sA 5ms cR",
        f"{OPENED} FIN_WAIT1:close() FIN_WAIT2:cA TIME_WAIT:cF",
        Ended.FIN,
        S,
    ),
    "simultaneous close": Case(
        "cS sSA cA accept() 10ms close() cF sF sA cA",
        f"{OPENED} FIN_WAIT1:close() CLOSING:cF TIME_WAIT:cA",
        Ended.FIN,
        S,
    ),
    "the kernel's FIN is lost": Case(
        "cS sSA cA accept() close() sF sF cA 5ms cF sA",
        f"{OPENED} FIN_WAIT1:close() FIN_WAIT2:cA TIME_WAIT:cF",
        Ended.FIN,
        S,
        fins_again=1,
    ),
    "a FIN is sent three times": Case(
        "cS sSA cA accept() cF sA 5ms cF sA 5ms cF sA close() sF cA",
        f"{OPENED} CLOSE_WAIT:cF LAST_ACK:close() CLOSE:cA",
        Ended.FIN,
        C,
        fins_again=2,
    ),
    "the kernel's SYN-ACK is lost": Case(
        "cS sSA 10ms cS sSA cA accept() close() sF cA 5ms cF sA",
        f"{OPENED} FIN_WAIT1:close() FIN_WAIT2:cA TIME_WAIT:cF",
        Ended.FIN,
        S,
        syns_again=1,
    ),
    "half-open": Case("cS sSA", "", Ended.OPEN, NOBODY),
    "the kernel resets": Case("cS sSA cA accept() 5ms abort() sRA", f"{OPENED} CLOSE:abort()", Ended.RST, S),
}
SLOW = ("the SYN-ACK comes late", "cS", "sSA")
OPENING = "SYN_SENT:connect() SYN_RECV:sS"
SERVER_SCRIPTED = {
    "RST in SYN_SENT": Case("connect() cS 5ms sRA", "SYN_SENT:connect() CLOSE:sRA", Ended.REFUSED, S),
    SLOW[0]: Case("connect() cS 20ms sSA cA sRA", "SYN_SENT:connect() ESTABLISHED:sSA CLOSE:sRA", Ended.RST, S),
    "RST after both have sent a SYN": Case("connect() cS sS cSA 5ms sR", f"{OPENING} CLOSE:sR", Ended.RST, S),
    "simultaneous open": Case(
        "connect() cS 5ms sS cSA 5ms sSA 10ms sF cA close() cF sA",
        f"{OPENING} ESTABLISHED:sSA CLOSE_WAIT:sF LAST_ACK:close() CLOSE:sA",
        Ended.FIN,
        S,
    ),
    "the first SYN is lost": Case(
        "connect() cS cS sSA cA 5ms sRA",
        "SYN_SENT:connect() ESTABLISHED:sSA CLOSE:sRA",
        Ended.RST,
        S,
        syns_again=1,
    ),
}
