"""TCP segments of a connection, told in one line of words. Pure: what the words mean, and no frames.

A story is `cS sSA cF sF`: who sends (client or server), and what. Between the handshake and the ends both have sent 7 bytes.

    cS sSA cA cF sF cRA   SYN, SYN-ACK, ACK, FIN, RST; FIN and RA acknowledge, R does not
    sRA0                  the answer of a host where nobody listens
    sSA'                  a SYN-ACK with another number (a cookie)
    cR- sF-               a RST and a FIN with a number from before the connection
    cS+ sSA+              a SYN with 7 bytes, and an answer that acknowledges them
    20ms                  what follows is sent so long after what stands before
"""

import argparse
from typing import NamedTuple

from lab.packet import ACK, FIN, RST, SYN
from lab.units import duration_ns

FLAGS = {"S": SYN, "SA": SYN | ACK, "A": ACK, "F": FIN | ACK, "R": RST, "RA": RST | ACK}
SPOKEN = 7
"""Bytes that either side has sent between the handshake and the ends."""
_RANGE = 1 << 32


class Segment(NamedTuple):
    """A segment of a story, sent `gap_ns` after the one before; `flags` and numbers as in TCP's header."""

    by_client: bool
    flags: int
    seq: int
    ack: int
    payload: int = 0
    gap_ns: int = 0


def segments(story: str, isns: tuple[int, int] = (1000, 5000)) -> list[Segment]:
    """Read a story; `isns` are the initial sequence numbers of client and server. Raises `ValueError` for what is no word."""
    read: list[Segment] = []
    gap_ns = 0
    for word in story.split():
        if pause_ns := gap_ns_of(word):
            gap_ns += pause_ns
            continue
        read.append(_segment(word, isns)._replace(gap_ns=gap_ns))
        gap_ns = 0
    return read


def _segment(word: str, isns: tuple[int, int]) -> Segment:
    kind = word[1:].rstrip("0'-+")
    if word[0] not in "cs" or kind not in FLAGS:
        raise ValueError(f"`{word}` is no word of a story")
    by_client = word[0] == "c"
    mine, other = isns if by_client else isns[::-1]
    seq, ack = mine + 1 + SPOKEN, other + 1 + SPOKEN
    if kind in {"S", "SA"}:
        seq, ack = mine, other + 1
    if word.endswith("0"):
        seq, ack = 0, other + 1
    if word.endswith("-"):
        seq = mine - 100
    if word.endswith("'"):
        seq = mine + 77
    if word.endswith("SA+"):
        ack += SPOKEN
    payload = SPOKEN if word.endswith("S+") else 0
    return Segment(by_client, FLAGS[kind], seq % _RANGE, ack % _RANGE if FLAGS[kind] & ACK else 0, payload)


def gap_ns_of(word: str) -> int:
    """Return how long a word of time is, 0 for one that is something else. Raises `ValueError` for a time that is none."""
    if not word[0].isdigit():
        return 0
    try:
        return duration_ns(word)
    except argparse.ArgumentTypeError as error:
        raise ValueError(str(error)) from error
