"""TCP's own vocabulary: states as the kernel numbers and spells them, addresses and ports as events carry them."""

import ipaddress
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np


UNSPECIFIED = ("0.0.0.0", "::")  # noqa: S104 (compared with, not bound)
"""The address of a socket that has none yet, as getsockname() tells it."""

SYN_TIMEOUT_NS = 130_000_000_000
"""An attempt has failed when it has sent no SYN for so long: no kernel waits longer than TCP_RTO_MAX, 120 s, for its next one."""


class State(IntEnum):
    """`include/net/tcp_states.h`."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11
    NEW_SYN_RECV = 12


class Flow(NamedTuple):
    """One side of a connection: its own address and port first. Addresses as text, IPv4 in dotted form."""

    laddr: str
    lport: int
    raddr: str
    rport: int

    @classmethod
    def of(cls, row: "np.void", here: str = "s", there: str = "d") -> "Flow":
        """Read a row's two ends, by what the names of their address and port begin with: the first is the flow's own side."""
        ends = ((address_text(row[f"{end}addr"].tobytes()), int(row[f"{end}port"])) for end in (here, there))
        return cls(*next(ends), *next(ends))

    def reversed(self) -> "Flow":
        """Return the same connection as the peer sees it."""
        return Flow(self.raddr, self.rport, self.laddr, self.lport)

    def __str__(self) -> str:
        return f"{endpoint(self.laddr, self.lport)} -> {endpoint(self.raddr, self.rport)}"


def endpoint(address: str, port: int | str) -> str:
    """`192.0.2.1:9999`, `[2001:db8::1]:9999`; `-` in the port's place where there is none."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@lru_cache(16_384)
def address_text(packed: bytes) -> str:
    """16 bytes in network order as text; an IPv4-mapped address as plain IPv4 (RFC 4291, 2.5.5.2)."""
    address = ipaddress.IPv6Address(packed)
    return str(address.ipv4_mapped or address)


class Ended(IntEnum):
    """How a connection ended, as far as was seen.

    `FIN`: both sides have sent theirs. `RST`: reset by one of them, perhaps after the first FIN. `REFUSED`: a RST instead of an
    answer to the SYN. `TIMEOUT`: no answer to any SYN. `REPLACED`: another connection has its addresses and ports, so it must
    have ended unseen. `OPEN`: not yet.
    """

    OPEN = 0
    FIN = 1
    RST = 2
    REFUSED = 3
    TIMEOUT = 4
    REPLACED = 5


class Side(IntEnum):
    """Who of the two."""

    NOBODY = 0
    CLIENT = 1
    SERVER = 2
