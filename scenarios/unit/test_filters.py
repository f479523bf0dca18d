"""The options that choose connections: what they choose, on rows of sockets and of packets."""

import argparse

import numpy as np
import pytest

from lab.choice import Choice
from lab.linux.process import Owner
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
        ("--local-address 192.0.2.1", [0]),
        ("--remote-address 192.0.2.1 2001:db8::1", [1, 2]),
        ("--port 80 --address 2001:db8::1", []),
    ],
)
def test_what_is_chosen(words, chosen):
    """Values of one option are alternatives; several options must all agree."""
    found = filters.wanted(choice(words), rows())
    assert np.flatnonzero(found).tolist() == chosen


def choice(words, sides=filters.SOCKETS):
    """Return what a command line chooses."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--netns")
    filters.add_arguments(parser, sides)
    return filters.chosen(parser.parse_args(words.split()))


def test_packets_have_no_local_side():
    """Only the options that do not depend on a side."""
    found = filters.wanted(choice("--port 443", filters.PACKETS), rows("s", "d"), "s", "d")
    assert np.flatnonzero(found).tolist() == [2]
    with pytest.raises(SystemExit):
        choice("--local-port 80", filters.PACKETS)


def test_roles_of_a_connection_are_either_end_to_the_kernel():
    """The kernel does not know which end is the client: the program reports more, and the tool chooses."""
    found = choice("--client-port 2000 --server-address 192.0.2.2", filters.CONNECTIONS)
    assert found == Choice(ports=(2000,), addresses=(SECOND,))


@pytest.mark.parametrize(
    ("words", "chosen"),
    [("", [0, 1, 2]), ("--pid 7", [0]), ("--pid 7 8", [0, 1]), ("--comm web", [0]), ("--comm web db --pid 8", [1])],
)
def test_processes(words, chosen):
    """Rows with a process, and processes that are looked up for a row, are chosen alike; an unknown process has no name."""
    parser = argparse.ArgumentParser()
    filters.add_process_arguments(parser)
    args = parser.parse_args(words.split())
    found = np.array([(7, b"web"), (8, b"db"), (0, b"web")], [("tgid", "u4"), ("comm", "S16")])
    comms = [name.encode() for name in args.comm]
    assert np.flatnonzero(filters.of_process(found, args.pid, comms)).tolist() == chosen
    owners = [Owner(7, "web"), Owner(8, "db"), None]
    assert [number for number, it in enumerate(owners) if filters.is_of_process(it, args.pid, args.comm)] == chosen
