"""What a program observes: the kernel compares ports, addresses and the version as the tools do (bpf/include/choice.h)."""

from collections import Counter
from contextlib import ExitStack

import pytest

from lab import probes
from lab.choice import EVERYTHING, Choice
from lab.ebpf.program import Program
from lab.errors import LabError
from lab.live.filters import address, wanted
from lab.paths import SOURCES
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse

ENDS = ("saddr", "sport", "daddr", "dport")


def packed(net, host, version):
    """Return the address of a host as the kernel reports it."""
    return address(getattr(net, host).address(version))


CHOICES = {
    "everything": lambda _: EVERYTHING,
    "no port": lambda _: Choice(ports=[65535, 1]),
    "either port": lambda _: Choice(ports=[9999, 1]),
    "local port": lambda _: Choice(local_ports=[9999]),
    "remote port": lambda _: Choice(remote_ports=[9999, 80]),
    "both ports": lambda _: Choice(local_ports=[9999], remote_ports=[9999]),
    "either address": lambda net: Choice(addresses=[packed(net, "client", 4)]),
    "local address": lambda net: Choice(local_addresses=[packed(net, "server", 4), packed(net, "server", 6)]),
    "remote address": lambda net: Choice(remote_addresses=[packed(net, "server", 6)]),
    "version 4": lambda _: Choice(version=4),
    "version 6": lambda _: Choice(version=6),
    "all limits": lambda net: Choice(ports=[9999], local_addresses=[packed(net, "client", 6)], version=6),
}


@pytest.fixture(scope="module")
def unlimited():
    """Return programs of their own that observe everything: a program can be attached once."""
    return {"packets": Program(SOURCES / "packets.c", ["PORT=0", "AT_TC=1"]), "rtt": Program(SOURCES / "rtt.c")}


@pytest.mark.parametrize("name", CHOICES)
def test_a_limited_program_reports_what_is_chosen(net, unlimited, name):
    """It reports the packets and sockets that the tools choose among those of an unlimited program, and no others."""
    probes.require("rtt")
    choice = CHOICES[name](net)
    limited = {"packets": Program.load("packets", ("PORT=0", "AT_TC=1")), "rtt": Program.load("rtt")}
    with ExitStack() as attached:
        for programs, limits in ((unlimited, EVERYTHING), (limited, choice)):
            for program in programs.values():
                attached.enter_context(program.attached([net.server.device], limits))
        for version in (4, 6):
            with converse(net, Conversation(exchanges=3), version=version):
                pass
        net.quiesce()
        events = [programs["packets"].ring.drain() for programs in (unlimited, limited)]
        totals = [programs["rtt"].take_totals() for programs in (unlimited, limited)]
    frames = events[0][wanted(choice, events[0], "s", "d")]
    assert packets_in(events[1]) == packets_in(frames)
    sockets = [rows[(rows["netns"] == net.server.inode) | (rows["netns"] == net.client.inode)] for rows in totals]
    assert counts_in(sockets[1]) == counts_in(sockets[0][wanted(choice, sockets[0])])
    found = sum(counts_in(sockets[1]).values()) + len(events[1])
    assert found == 0 if name in ("no port", "both ports") else found > 0


def packets_in(rows):
    """Return how often each packet is among the rows, by its ends, flags and sequence number."""
    return Counter((*(row[name].tobytes() for name in (*ENDS, "seq", "ack", "flags")),) for row in rows)


def counts_in(rows):
    """Return the number of RTT values by socket and kind."""
    found = Counter()
    for row in rows:
        found[(*(row[name].tobytes() for name in ("laddr", "lport", "raddr", "rport", "kind")),)] += int(row["count"])
    return found


def test_too_many_limits_are_refused():
    """One sentence: a program can be limited to 256 addresses."""
    many = [bytes(14) + number.to_bytes(2, "big") for number in range(257)]
    with (
        pytest.raises(LabError, match="limited to 256 addresses"),
        Program.load("rtt").attached(choice=Choice(addresses=many)),
    ):
        pass
