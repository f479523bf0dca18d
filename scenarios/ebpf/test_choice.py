"""What a program observes: the kernel compares ports, addresses and the version as the tools do (bpf/include/choice.h)."""

import struct
from collections import Counter
from contextlib import ExitStack

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab import probes
from lab.choice import EVERYTHING, Choice
from lab.ebpf.choice import write
from lab.ebpf.program import Program
from lab.errors import LabError
from lab.live.filters import address, wanted
from lab.paths import SOURCES
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse

ENDS = ("saddr", "sport", "daddr", "dport")
LIMITED = {"packets": ("PORT=0", "AT_TC=1"), "duration": (), "rtt": ()}
"""Programs that a choice limits, with definitions."""


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
    return {name: Program(SOURCES / f"{name}.c", defines) for name, defines in LIMITED.items()}


@pytest.mark.parametrize("name", CHOICES)
def test_a_limited_program_reports_what_is_chosen(net, unlimited, name):
    """It reports the packets and sockets that the tools choose among those of an unlimited program, and no others."""
    probes.require("rtt")
    choice = CHOICES[name](net)
    limited = {name: Program.load(name, defines) for name, defines in LIMITED.items()}
    with ExitStack() as attached:
        for programs, limits in ((unlimited, EVERYTHING), (limited, choice)):
            for program in programs.values():
                attached.enter_context(program.attached([net.server.device], limits))
        for version in (4, 6):
            with converse(net, Conversation(exchanges=3), version=version):
                pass
        net.quiesce()
        events = {
            name: [programs[name].ring.drain() for programs in (unlimited, limited)] for name in ("packets", "duration")
        }
        totals = [programs["rtt"].take_totals() for programs in (unlimited, limited)]
    for every, some in events.values():
        assert packets_in(some) == packets_in(every[wanted(choice, every, "s", "d")])
    sockets = [rows[(rows["netns"] == net.server.inode) | (rows["netns"] == net.client.inode)] for rows in totals]
    assert counts_in(sockets[1]) == counts_in(sockets[0][wanted(choice, sockets[0])])
    found = sum(counts_in(sockets[1]).values()) + sum(len(some) for _, some in events.values())
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


CHOOSING = """
#include "include/second_run.h"
#include "include/lost.h"
#include "include/tcp_socket.h"

ON_RAW_TRACEPOINT(choosing)
{
    const struct choice *chosen = current_choice();
    struct address local, remote;

    if (!chosen)
        return -1;
    __builtin_memcpy(&local, &ctx->args[3], sizeof(local));
    __builtin_memcpy(&remote, &ctx->args[5], sizeof(remote));
    return is_chosen_netns(chosen, ctx->args[0]) << 1 |
           are_chosen_ends(chosen, &local, ctx->args[1], &remote, ctx->args[2]);
}
"""
ADDRESSES = {
    4: ["192.0.2.1", "192.0.2.2", "255.255.255.255"],
    6: ["2001:db8::1", "::", "::192.0.2.1", "1::ffff:192.0.2.1", "0:0:0:1:0:ffff:c000:201"],
}
PORTS, NETNS = [0, 1, 63, 64, 127, 9999, 65535], [5, 6, 7, 8, 9]
ENDS_OF_FLOW = np.dtype([("laddr", "u1", 16), ("raddr", "u1", 16), ("lport", "u2"), ("rport", "u2")])


def limits(values, most=2):
    """Draw a limit, which is none half of the time."""
    return st.lists(st.sampled_from(values), unique=True, max_size=most) | st.just([])


@st.composite
def flows(draw):
    """Draw a namespace and a flow of either version, whose ends are often those of a limit."""
    packed_ends = [address(text) for text in ADDRESSES[draw(st.sampled_from([4, 6]))]]
    ends = [draw(st.sampled_from(packed_ends)) for _ in range(2)]
    return draw(st.sampled_from(NETNS)), ends, [draw(st.sampled_from(PORTS)) for _ in range(2)]


EVERY_ADDRESS = [address(text) for texts in ADDRESSES.values() for text in texts]
CHOICES_BY_CHANCE = st.builds(
    Choice,
    netns=limits(NETNS, 4),
    **{f"{side}ports": limits(PORTS) for side in ("", "local_", "remote_")},
    **{f"{side}addresses": limits(EVERY_ADDRESS, 3) for side in ("", "local_", "remote_")},
    version=st.sampled_from([0, 0, 4, 6]),
    cgroup=st.just(0),
)


@pytest.fixture(scope="module")
def choosing(tmp_path_factory):
    """Load a program that returns whether a namespace (2) and the ends of a flow (1) are chosen."""
    source = tmp_path_factory.mktemp("choosing") / "choosing.c"
    source.write_text(CHOOSING)
    return Program(source)


@settings(deadline=None, max_examples=400)
@given(choice=CHOICES_BY_CHANCE, drawn=st.lists(flows(), min_size=5, max_size=10))
def test_the_kernel_chooses_like_the_tools(choosing, choice, drawn):
    """Any limits at once, and any flow: the kernel and the tools choose the same."""
    write(choice, choosing.maps)
    for netns, ends, ports in drawn:
        row = np.array([(*(np.frombuffer(end, np.uint8) for end in ends), *ports)], ENDS_OF_FLOW)
        expected = (not choice.netns or netns in choice.netns) << 1 | int(wanted(choice, row)[0])
        words = [word for end in ends for word in struct.unpack("=QQ", end)]
        assert choosing.fire("choosing", netns, *ports, *words) == expected


def test_too_many_limits_are_refused():
    """One sentence: a program can be limited to 256 addresses."""
    many = [bytes(14) + number.to_bytes(2, "big") for number in range(257)]
    with (
        pytest.raises(LabError, match="limited to 256 addresses"),
        Program.load("rtt").attached(choice=Choice(addresses=many)),
    ):
        pass
