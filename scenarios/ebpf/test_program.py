"""Loaded programs: exact totals, second programs, and attaching to interfaces of any namespace without leftovers."""

import os
import socket
import struct
import subprocess
import threading
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from pyroute2 import IPRoute
from support.packet_taps import await_that
from support.processes import ip

from lab.choice import EVERYTHING, Choice
from lab.ebpf import interface_attach
from lab.ebpf.interface import Device
from lab.ebpf.program import LIVE_RINGS, Program, ring_specs
from lab.ebpf.spec import MapSpec
from lab.errors import LabError
from lab.linux.bpf import RINGBUF
from lab.linux.netns import inside
from lab.probes.analyse.measure import joined
from lab.recording.recorder import record
from lab.tcp import State
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse

COUNTING = """
#include "include/attach_points.h"
#include "include/epochs.h"
#include "include/lost.h"
#include <linux/pkt_cls.h>

struct key { u32 epoch; u32 ifindex; };
struct sum { u64 packets; u64 bytes; };

BPF_HASH(totals, struct key, struct sum, ENTRIES);

static inline int add(struct __sk_buff *ctx)
{
    struct key key = {.epoch = current_epoch(), .ifindex = ctx->ifindex};
    struct sum none = {};
    struct sum *sum = totals.lookup_or_try_init(&key, &none);

    if (!sum) {
        count_lost();
        return TC_ACT_UNSPEC;
    }
    __sync_fetch_and_add(&sum->packets, 1);
    __sync_fetch_and_add(&sum->bytes, ctx->len);
    return TC_ACT_UNSPEC;
}

ON_TC(egress) { return add(ctx); }
"""
# Counts a lost event for each segment that the second program takes for unhandled.
IN_ORDER = """
#include "include/kernel_functions.h"
#include "include/lost.h"
#include "include/second_run.h"

static inline int first(const u64 skb) { note_run(0, skb, false); return 0; }

static inline int second(const u64 skb)
{
    if (rescues(0, skb))
        count_lost();
    return 0;
}

#if ATTACH_TRACEPOINT
ON_RAW_TRACEPOINT_UNAUDITED(tcp_probe) { return first(ctx->args[1]); }
ON_RAW_TRACEPOINT_AGAIN(tcp_probe) { return second(ctx->args[1]); }
#else
ON_FUNCTION(tcp_rcv_established) { return first(ARGUMENT(1)); }
ON_FUNCTION_AGAIN(tcp_rcv_established) { return second(ARGUMENT(1)); }
#endif
"""
READING = """
#include "include/second_run.h"
#include "include/lost.h"
#include "include/kernel_read.h"

ON_RAW_TRACEPOINT(reading)
{
    u64 address = ctx->args[0] ? ctx->args[0] : bpf_get_current_task();
    u32 pid = 7;

    kernel_read(&pid, address, FIELD(task_struct, pid));
    return pid;
}
"""
INTERRUPTED = """
#include "include/second_run.h"
#include "include/lost.h"
#include "include/kernel_read.h"

ON_RAW_TRACEPOINT(interrupted)
{
    u32 rescued_keys = 0;

    note_run(0, 1, false);
    /* The second program is running for 1: the kernel withholds it from the softirqs with 2 and 3. */
    note_run(0, 2, false);
    note_run(0, 3, false);
    rescued_keys |= rescues(0, 1) << 1;
    rescued_keys |= rescues(0, 3) << 3;
    /* 4 comes after the second program has looked for 1. Later 6 interrupts the thread before it looks for 5. */
    note_run(0, 4, false);
    note_run(0, 5, true);
    note_run(0, 6, false);
    rescued_keys |= rescues(0, 6) << 6;
    rescued_keys |= rescues(0, 5) << 5;
    rescued_keys |= rescues(0, 4) << 4;
    /* 8 interrupts the thread after 7, and 9 is the next event of a thread: what was noted for 8 is over. */
    note_run(0, 7, false);
    note_run(0, 8, false);
    note_run(0, 9, true);
    rescued_keys |= rescues(0, 8) << 8;
    rescued_keys |= rescues(0, 9) << 9;
    rescued_keys |= rescues(0, 1) << 11;
    /* 12 interrupts the thread after 10. Each note is found once. */
    note_run(0, 10, false);
    note_run(0, 12, false);
    rescued_keys |= rescues(0, 12) << 12;
    rescued_keys |= rescues(0, 12) << 13;
    rescued_keys |= rescues(0, 1) << 14;
    rescued_keys |= rescues(0, 5) << 15;
    rescued_keys |= rescues(0, 6) << 16;
    rescued_keys |= rescues(0, 9) << 19;
    rescued_keys |= rescues(0, 10) << 10;
    return rescued_keys;
}
"""
MOVED = """
#include "include/second_run.h"
#include "include/lost.h"
#include "include/kernel_read.h"

ON_RAW_TRACEPOINT(first) { note_run(0, 1, true); return 0; }
ON_RAW_TRACEPOINT(second) { return rescues(0, 1); }
"""
KEYS = """
#include "include/second_run.h"
#include "include/lost.h"
#include "include/kernel_read.h"

ON_RAW_TRACEPOINT(changes) { return change_key(ctx); }
"""
THREADS = 64  # as in bpf/include/second_run.h
ETHERNET = 14 + 20 + 8


@pytest.fixture
def counting(tmp_path):
    """Load a program that counts the packets that interfaces send; its map has room for `entries` interfaces."""

    def load(entries=16):
        source = tmp_path / "counting.c"
        source.write_text(COUNTING)
        return Program(source, (f"ENTRIES={entries}",))

    return load


def send(host, peer, count, size=100):
    """Send datagrams from a host to a port without a reader."""

    def sending():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _ in range(count):
                sock.sendto(bytes(size), (peer.ipv4, 9))

    inside(host.name, sending)


@pytest.mark.parametrize("defines", [(), ("LOADS=0",)], ids=["loaded if possible", "copied"])
def test_a_member_is_read_or_zero(tmp_path, defines):
    """The member of the current task is right; at addresses near 0, of users, non-canonical or unmapped it is 0."""
    source = tmp_path / "reading.c"
    source.write_text(READING)
    program = Program(source, defines)
    assert program.fire("reading", 0) == threading.get_native_id()
    for address in (1, id(program), 1 << 47, 1 << 62, 1 << 63, (1 << 64) - (1 << 20)):
        assert program.fire("reading", address) == 0


def test_an_interrupted_second_program_repeats_nothing(tmp_path):
    """After interrupts by several segments the second program finds its own key, and no other key stays behind."""
    source = tmp_path / "interrupted.c"
    source.write_text(INTERRUPTED)
    program = Program(source)
    expected = sum(1 << bit for bit in (3, 4, 8, 11, 13, 14, 15, 16, 19))
    for times in (1, 2):
        assert program.fire("interrupted") == expected
        assert program.maps["rescued"].number() == times * expected.bit_count()


def test_a_second_program_finds_a_key_noted_on_another_cpu(tmp_path):
    """A thread that is preempted between the two programs may continue on another CPU. The key is found once."""
    source = tmp_path / "moved.c"
    source.write_text(MOVED)
    program, allowed = Program(source), os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        program.fire("first")
        os.sched_setaffinity(0, {max(allowed)})
        assert [program.fire("second"), program.fire("second")] == [0, 1]
    finally:
        os.sched_setaffinity(0, allowed)


def test_a_second_program_finds_no_key_of_another_thread(tmp_path):
    """A thread that is preempted between the two programs leaves a key, which another thread does not take for its own."""
    source = tmp_path / "moved.c"
    source.write_text(MOVED)
    program, found = Program(source), []
    program.fire("first")
    mine = threading.get_native_id()

    def seek():
        if (threading.get_native_id() - mine) % THREADS:
            found.append(program.fire("second"))

    while not found:
        other = threading.Thread(target=seek)
        other.start()
        other.join()
    assert [*found, program.fire("second")] == [1, 0]


def test_the_key_of_a_change_of_state(tmp_path):
    """Changes of sockets that lie more than 256 bytes apart, from any state to any other, have different keys."""
    source = tmp_path / "keys.c"
    source.write_text(KEYS)
    program = Program(source)
    changes = list(product(range(0x1000, 0x1800, 288), State, State))
    assert len({program.fire("changes", *change) for change in changes}) == len(changes)


def test_totals_are_exact_while_they_are_taken(net, counting):
    """While two senders send, a reader takes the totals again and again: no packet is counted twice or missed."""
    program, count = counting(), 20_000
    taken = []
    with program.attached(net.devices):
        senders = [
            threading.Thread(target=send, args=(here, there, count))
            for here, there in ((net.client, net.server), (net.server, net.client))
        ]
        for sender in senders:
            sender.start()
        while any(sender.is_alive() for sender in senders):
            taken.append(program.take_totals())
        taken.append(program.take_totals())
    rows = np.concatenate(taken)
    assert len(taken) > 2, "the totals were not taken while packets were sent: this proves nothing"
    for host, peer in ((net.client, net.server), (net.server, net.client)):
        mine = rows[rows["ifindex"] == host.ifindex]
        # More packets are possible: the host also answers datagrams with ICMP port unreachable, rate-limited.
        assert mine["packets"].sum() >= count, peer
        assert mine["bytes"].sum() >= count * (ETHERNET + 100)
    assert program.lost() == 0
    assert len(program.take_totals()) == 0


def test_a_full_map_is_a_counted_loss(net, counting):
    """Events without room in the totals are counted as lost."""
    program = counting(entries=1)
    before = program.lost()
    with program.attached(net.devices):
        send(net.client, net.server, 5)
        send(net.server, net.client, 5)
    (row,) = program.take_totals()
    assert row["ifindex"] == net.client.ifindex
    assert program.lost() - before >= 5


def test_a_second_program_runs_after_the_first(net, tmp_path):
    """The second program repeats no event of the first, with each mechanism's order of programs at one attach point."""
    source = tmp_path / "in_order.c"
    source.write_text(IN_ORDER)
    exchanges = 50
    with (
        record(programs={"in order": Program(source)}, lossy=True) as recorder,
        converse(net, Conversation(exchanges=exchanges)),
    ):
        pass
    assert recorder.recording.missing("in order") < exchanges // 5, "of at least 100 segments"


def test_interfaces_with_one_index_are_refused(net, counting):
    """Events name their interface by ifindex only."""
    twins = (net.client.device, net.client.device)
    with pytest.raises(LabError, match="same index"), record(programs={"counting": counting()}, devices=twins):
        pass


@pytest.mark.parametrize("links", [True, False], ids=["link", "filter"])
def test_nothing_is_left_on_the_interface(net, counting, links, works, monkeypatch):
    """With a link, or with a filter as on kernels before 6.6: after detaching, the interface is as before."""
    if not links:
        monkeypatch.setattr(interface_attach, "link_create", refuse)
    linked = links and works["TCX"]
    program = counting()
    before = qdiscs(net.client)
    for _ in range(2):
        with program.attached([net.client.device]):
            send(net.client, net.server, 1)
            assert ("clsact" in qdiscs(net.client)) is not linked
        assert len(program.take_totals()) == 1
        send(net.client, net.server, 1)
        assert len(program.take_totals()) == 0
        assert qdiscs(net.client) == before


@pytest.mark.parametrize("choice", [EVERYTHING, Choice(ports=[1])], ids=["everything", "another port"])
@pytest.mark.parametrize("probe", ["flows", "duration"])
def test_programs_behind_a_probe_run(net, counting, probe, choice):
    """A probe at TC leaves each packet to the programs that are attached after it, whether it reports the packet or not."""
    probed, behind = Program.load(probe), counting()
    with probed.attached([net.client.device], choice), behind.attached([net.client.device]):
        send(net.client, net.server, 3)
    assert behind.take_totals()["packets"].sum() >= 3


def test_filters_of_several_programs(net, counting, monkeypatch):
    """With filters, as on kernels before 6.6: detaching one program leaves the other attached, and nothing is left."""
    monkeypatch.setattr(interface_attach, "link_create", refuse)
    first, second = counting(), counting(entries=3)
    before = qdiscs(net.client)
    with ExitStack() as one, ExitStack() as other:
        one.enter_context(first.attached([net.client.device]))
        other.enter_context(second.attached([net.client.device]))
        send(net.client, net.server, 3)
        assert [program.take_totals()["packets"].tolist() for program in (first, second)] == [[3], [3]]
        one.close()
        send(net.client, net.server, 2)
        assert second.take_totals()["packets"].tolist() == [2]
    assert qdiscs(net.client) == before


def refuse(*_):
    raise OSError(22, os.strerror(22))


def qdiscs(host):
    """Return tc's list of the qdiscs of a host's interface."""
    words = ["/usr/sbin/tc", "-n", host.name, "qdisc", "show", "dev", "eth0"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


BAD = {
    "no such interface": (("eth7",), "there is no interface `eth7` in the network namespace"),
    "down": (("spare",), "it is down: set it up"),
}


@pytest.mark.parametrize(("arguments", "sentence"), BAD.values(), ids=BAD)
def test_interfaces_that_cannot_be_observed(net, arguments, sentence):
    """Each has its own error message."""
    ip(net.client, "link", "add", "spare", "type", "veth", "peer", "name", "spare2")
    with pytest.raises(LabError, match=sentence):
        Device.find(*arguments, netns=net.client.name)


@pytest.fixture
def spare(net):
    """Create an interface `spare`, whose carrier the kernel has seen come and go; return its peer's name."""

    def operstate():
        with IPRoute(netns=net.client.name) as netlink:
            return netlink.get_links(ifname="spare")[0].get_attr("IFLA_OPERSTATE")

    ip(net.client, "link", "add", "spare", "up", "type", "veth", "peer", "name", "spare2")
    for state, seen in (("up", "UP"), ("down", "LOWERLAYERDOWN")):
        ip(net.client, "link", "set", "spare2", state)
        await_that(lambda seen=seen: operstate() == seen)
    return "spare2"


def test_a_carrier_that_comes(net, spare):
    """V4: an interface that gets its carrier a moment later is found: the kernel takes up to a second to notice one."""
    setting_up = threading.Timer(0.1, ip, (net.client, "link", "set", spare, "up"))
    setting_up.start()
    try:
        assert Device.find("spare", net.client.name).ifname == "spare"
    finally:
        setting_up.join()


@pytest.mark.usefixtures("spare")
def test_no_carrier(net):
    """V4: an interface that stays without carrier has its own error message."""
    with pytest.raises(LabError, match="it has no carrier: set the other end of its link up"):
        Device.find("spare", net.client.name)


def test_the_only_interface_is_found(net):
    """Without a name, `find` returns the only interface that is up, loopback not counted."""
    found = Device.find(None, net.client.name)
    assert (found.ifname, found.ifindex, found.inode) == ("eth0", net.client.ifindex, net.client.inode)
    found.require_present()
    ip(net.client, "link", "del", "eth0")
    with pytest.raises(LabError, match="has gone"):
        found.require_present()


def test_the_default_namespace_is_that_of_the_process():
    """Without a namespace, `find` uses that of this process."""
    assert Device.find("lo").inode == Path("/proc/self/ns/net").stat().st_ino


def test_a_recording_is_limited_to_its_hosts(net):
    """Connections in the machine's own namespace at the same time are in no probe's events or totals."""
    probes = ["analyse", "rtt", "states"]
    with (
        record(*probes, devices=net.devices) as recorder,
        converse(net, Conversation()),
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as here,
        listener.accept()[0] as there,
    ):
        here.send(b"x")
        there.recv(1)
    recording = recorder.recording
    for rows in (joined(recording.events["analyse"]), recording.totals["rtt"], recording.events["states"]):
        assert set(rows["netns"].tolist()) == set(net.inodes)


def test_the_namespace_limit_is_filled_up():
    """The namespaces are repeated until the map is full: a 0 would match a namespace that cannot be read."""
    program = Program.load("states")

    def watched():
        return struct.unpack("=4I", program.maps["choice"].read()[:16])

    with program.attached(choice=Choice([5, 6])):
        assert watched() == (5, 6, 5, 6)
    with program.attached():
        assert watched() == (0, 0, 0, 0)


def test_too_many_namespaces_are_refused():
    """A program can be limited to four namespaces."""
    program = Program.load("states")
    with (
        pytest.raises(LabError, match="limited to 4 network namespaces, not to 5"),
        program.attached(choice=Choice(range(1, 6))),
    ):
        pass


@pytest.mark.rootless
@pytest.mark.parametrize(
    ("mib", "processors", "most", "number", "each_mib"),
    [(16, 1, None, 1, 16), (16, 2, None, 2, 8), (64, 6, None, 6, 8), (64, 2, LIVE_RINGS, 2, 8), (64, 256, None, 16, 4)],
)
def test_rings_for_processors(mib, processors, most, number, each_mib):
    """The rings share the size that the source gives; many processors share them, and each ring has room for one."""
    events = MapSpec("events", RINGBUF, 0, 0, mib << 20, 0, [], [])
    rings = ring_specs(events, processors, most or mib << 20)
    assert [ring.max_entries for ring in rings] == [each_mib << 20] * number


@pytest.mark.parametrize(
    "defines", [*product(("SIZE=64", "SIZE=200"), ("AT_FRAME=1", "AT_SEGMENT=1")), ("EMPTY=1", "AT_FRAME=1")]
)
def test_the_floor_programs_of_the_bench(defines):
    """Each loads, the empty one without a ring."""
    assert (Program.load("floor", defines).ring is None) == ("EMPTY=1" in defines)
