"""The options that choose connections: what they choose, on rows of sockets and of packets."""

import argparse

import numpy as np
import pytest

from lab.live import filters

MAPPED = bytes.fromhex("00000000000000000000ffff")
FIRST, SECOND = MAPPED + bytes([192, 0, 2, 1]), MAPPED + bytes([192, 0, 2, 2])
SIXTH = bytes.fromhex("20010db8000000000000000000000001")


def rows(local="l", remote="r"):
    """Return three rows: two of IPv4, one of IPv6."""
    dtype = [(f"{local}addr", "u1", 16), (f"{local}port", "u2"), (f"{remote}addr", "u1", 16), (f"{remote}port", "u2")]
    ends = [(FIRST, 1000, SECOND, 80), (SECOND, 80, FIRST, 2000), (SIXTH, 3000, SIXTH, 443)]
    return np.array([(np.frombuffer(a, np.uint8), b, np.frombuffer(c, np.uint8), d) for a, b, c, d in ends], dtype)


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        ("", [0, 1, 2]),
        ("--port 80", [0, 1]),
        ("--port 1000 443", [0, 2]),
        ("--local-port 80", [1]),
        ("--remote-port 80", [0]),
        ("--local-port 80 --remote-port 2000", [1]),
        ("--address 192.0.2.1", [0, 1]),
        ("--address 2001:db8::1 192.0.2.9", [2]),
        ("-4", [0, 1]),
        ("-6", [2]),
        ("-4 --port 443", []),
    ],
)
def test_what_is_chosen(words, chosen):
    """Values of one option are alternatives; several options must all agree."""
    parser = argparse.ArgumentParser()
    filters.add_arguments(parser)
    found = filters.Filter.of(parser.parse_args(words.split())).wanted(rows())
    assert np.flatnonzero(found).tolist() == chosen


def test_packets_have_no_local_side():
    """Only the options that do not depend on a side."""
    parser = argparse.ArgumentParser()
    filters.add_arguments(parser, of_sockets=False)
    found = filters.Filter.of(parser.parse_args(["--port", "443"])).wanted(rows("s", "d"), "s", "d")
    assert np.flatnonzero(found).tolist() == [2]
    with pytest.raises(SystemExit):
        parser.parse_args(["--local-port", "80"])
