"""Scripts: the TCP segments of a connection as one line of words. What lives here: parsing. What does not: frames.

A word is the sender (c for client, s for server) and the flags, as in `cS sSA cF sF`. Each side has sent 7 bytes
between the handshake and its FIN or RST.

    cS sSA cA cF sF cRA   SYN, SYN-ACK, ACK, FIN, RST; FIN and RA acknowledge, R does not
    sRA0                  the RST of a host without a listener
    cR1                   the RST of a host that has sent nothing after its SYN
    sSA'                  a SYN-ACK with another sequence number (a cookie)
    cR- sF-               a RST and a FIN with a sequence number from before the connection
    cS+ sSA+              a SYN with 7 bytes, and a SYN-ACK that acknowledges them
    20ms                  the gap between the previous segment and the next
"""

import argparse
from typing import NamedTuple

from lab.packet import ACK, FIN, RST, SYN
from lab.units import duration_ns

FLAGS = {"S": SYN, "SA": SYN | ACK, "A": ACK, "F": FIN | ACK, "R": RST, "RA": RST | ACK}
SENT = 7
"""Bytes that each side has sent between the handshake and its FIN or RST."""
_RANGE = 1 << 32


class Segment(NamedTuple):
    """A segment of a script, sent `gap_ns` after the one before; flags and numbers are as in the TCP header."""

    by_client: bool
    flags: int
    seq: int
    ack: int
    payload: int = 0
    gap_ns: int = 0


def segments(script: str, isns: tuple[int, int] = (1000, 5000)) -> list[Segment]:
    """Return the segments of a script. Raises `ValueError` for an unknown word.

    `isns` are the initial sequence numbers of client and server.
    """
    read: list[Segment] = []
    gap_ns = 0
    for word in script.split():
        if pause_ns := gap_ns_of(word):
            gap_ns += pause_ns
            continue
        read.append(_segment(word, isns)._replace(gap_ns=gap_ns))
        gap_ns = 0
    return read


def _segment(word: str, isns: tuple[int, int]) -> Segment:
    kind = word[1:].rstrip("01'-+")
    if word[0] not in "cs" or kind not in FLAGS:
        raise ValueError(f"`{word}` is not a word of a script: write it like cS, sSA or 20ms")
    by_client = word[0] == "c"
    mine, other = isns if by_client else isns[::-1]
    seq, ack = mine + 1 + SENT, other + 1 + SENT
    if kind in {"S", "SA"}:
        seq, ack = mine, other + 1
    if word.endswith("0"):
        seq, ack = 0, other + 1
    if word.endswith("1"):
        seq = mine + 1
    if word.endswith("-"):
        seq = mine - 100
    if word.endswith("'"):
        seq = mine + 77
    if word.endswith("SA+"):
        ack += SENT
    payload = SENT if word.endswith("S+") else 0
    return Segment(by_client, FLAGS[kind], seq % _RANGE, ack % _RANGE if FLAGS[kind] & ACK else 0, payload)


def gap_ns_of(word: str) -> int:
    """Return the duration of a word that begins with a digit, else 0. Raises `ValueError` for a bad duration."""
    if not word[0].isdigit():
        return 0
    try:
        return duration_ns(word)
    except argparse.ArgumentTypeError as error:
        raise ValueError(str(error)) from error
