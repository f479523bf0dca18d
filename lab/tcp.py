"""TCP states with the kernel's numbers and names, flows, addresses as text, and the ways in which a connection ends."""

import ipaddress
from collections.abc import Mapping
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np


UNSPECIFIED = ("0.0.0.0", "::")  # noqa: S104 (compared, not bound)
"""The address that getsockname() returns for a socket without one."""

SYN_TIMEOUT_NS = 130_000_000_000
"""An attempt without a SYN for this long has failed: the kernel waits at most TCP_RTO_MAX (120 s) between SYNs."""

MAPPED = bytes(10) + b"\xff\xff"
"""The beginning of an IPv4 address in 16 bytes (RFC 4291, 2.5.5.2)."""

DEMO_PORT = 9999
"""The port of the demo's servers."""

CREATED_BY_SYN = 0xFFFF_FFFF
"""In place of a handshake's sample: the socket has been in SYN_RECV since the SYN (`bpf/include/handshake.h`)."""


class State(IntEnum):
    """TCP states, as numbered in `include/net/tcp_states.h`."""

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


def byte_swapped(port: int) -> int:
    """Return what a port looks like to a tool that forgets ntohs()."""
    return port >> 8 | (port & 0xFF) << 8


class Flow(NamedTuple):
    """A connection from one side: local address and port, remote address and port.

    Addresses are text, IPv4 in dotted form.
    """

    laddr: str
    lport: int
    raddr: str
    rport: int

    @classmethod
    def of(cls, row: "np.void", here: str = "s", there: str = "d") -> "Flow":
        """Return the flow of a row with the fields `<here>addr`, `<here>port`, `<there>addr`, `<there>port`."""
        ends = ((address_text(row[f"{end}addr"].tobytes()), int(row[f"{end}port"])) for end in (here, there))
        return cls(*next(ends), *next(ends))

    def reversed(self) -> "Flow":
        """Return the flow of the same connection from the peer's side."""
        return Flow(self.raddr, self.rport, self.laddr, self.lport)

    def translated(self, addresses: Mapping[str, str]) -> "Flow":
        """Return the flow with each address replaced by the one that `addresses` gives for it, if it gives one."""
        laddr, raddr = (addresses.get(address, address) for address in (self.laddr, self.raddr))
        return self._replace(laddr=laddr, raddr=raddr)

    def __str__(self) -> str:
        return f"{endpoint(self.laddr, self.lport)} -> {endpoint(self.raddr, self.rport)}"


def endpoint(address: str | None, port: int | str | None) -> str:
    """Return address and port as text: `192.0.2.1:9999`, `[2001:db8::1]:9999`; `-` for None."""
    host, number = address or "-", "-" if port is None else port
    return f"[{host}]:{number}" if ":" in host else f"{host}:{number}"


def address_bytes(text: str) -> bytes:
    """Return an address as 16 bytes in network order, IPv4 after `MAPPED`. Raises `ValueError` if it is none."""
    packed = ipaddress.ip_address(text).packed
    return MAPPED + packed if len(packed) == 4 else packed


@lru_cache(16_384)
def address_text(packed: bytes) -> str:
    """Return 16 bytes in network order as text; an IPv4-mapped address as IPv4 (RFC 4291, 2.5.5.2)."""
    address = ipaddress.IPv6Address(packed)
    return str(address.ipv4_mapped or address)


class Ended(IntEnum):
    """How a connection ended, as observed.

    - `OPEN`: it had not ended.
    - `FIN`: both sides sent a FIN, or one side if only its segments were seen.
    - `RST`: one side reset it, possibly after the first FIN.
    - `REFUSED`: the SYN was answered with a RST.
    - `TIMEOUT`: no SYN was answered.
    - `REPLACED`: another connection uses the same addresses and ports, so the end was missed.
    """

    OPEN = 0
    FIN = 1
    RST = 2
    REFUSED = 3
    TIMEOUT = 4
    REPLACED = 5


class Side(IntEnum):
    """A side of a connection, or neither."""

    NOBODY = 0
    CLIENT = 1
    SERVER = 2
