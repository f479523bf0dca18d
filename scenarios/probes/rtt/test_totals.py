"""What the probe `rtt` adds up in the kernel is exact, has room, and says so when it has none."""

import os
from contextlib import ExitStack
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.lockstep import conversing
from support.mutants import changed

from lab.ebpf.program import Program
from lab.ebpf.recorder import record
from lab.log2_histogram import SLOTS, slot_of
from lab.probes.rtt.measure import folded
from lab.tcp import State
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse

TIMES = 100_000
LOG2 = """
#include "include/second_run.h"
#include "include/lost.h"
#include "include/kernel_read.h"
#include "include/log2_histogram.h"

ON_RAW_TRACEPOINT(tcp_probe) { return log2_slot(ctx->args[0]); }
"""
ESTIMATE = """
#include "rtt/estimate.h"
#include "include/second_run.h"
#include "include/lost.h"
#include "include/kernel_read.h"

ON_RAW_TRACEPOINT(tcp_probe)
{
    struct estimate before = {ctx->args[0], ctx->args[1], ctx->args[2]}, now = {ctx->args[3], ctx->args[4], ctx->args[5]};
    u32 rtt_us = 0;
    enum outcome outcome = rtt_sample(&before, &now, &rtt_us);

    return outcome == SAMPLE ? rtt_us : outcome == UNCLEAR ? -2 : -1;
}
"""
NO_SAMPLE, UNCLEAR = 0xFFFFFFFF, 0xFFFFFFFE
EDGES = {0: 0, 1: 0, 2: 1, 3: 1, 4: 2, 7: 2, 8: 3}
EDGES |= {(1 << n) - 1: n - 1 for n in range(2, 33)} | {1 << n: n for n in range(1, 32)}


@pytest.fixture(scope="module")
def log2_slot(tmp_path_factory):
    """Return what bpf/include/log2_histogram.h makes of a value, in the kernel."""
    source = tmp_path_factory.mktemp("log2") / "log2_slot.c"
    source.write_text(LOG2)
    program = Program(source)
    return lambda value: program.fire("tcp_probe", value)


def test_bucket_edges(log2_slot):
    """R4: 0 and 1 are in the first bucket, 2 and 3 in the next; 2^n - 1 is the last of its bucket, 2^n the first of the next."""
    assert {value: log2_slot(value) for value in EDGES} == EDGES


@settings(deadline=None)
@given(st.integers(0, (1 << SLOTS) - 1))
def test_every_value_has_its_bucket(log2_slot, value):
    """R4: the kernel's buckets are those that Python prints, for every value."""
    assert log2_slot(value) == slot_of(value)


class Estimate(NamedTuple):
    """A smoothed RTT times 8, a mean deviation times 4, and how many segments were acknowledged so far."""

    srtt_us: int
    mdev_us: int
    delivered: int

    def after(self, rtt_us):
        """Return what one more sample makes of it: RFC 6298 (2.2, 2.3), with the kernel's slower gain for a falling RTT."""
        if not self.srtt_us:
            return Estimate(max(1, rtt_us * 8), rtt_us * 2, self.delivered + 1)
        error_us = rtt_us - self.srtt_us // 8
        change_us = abs(error_us) - self.mdev_us // 4
        if error_us < 0 < change_us:
            change_us //= 8
        return Estimate(self.srtt_us + error_us, self.mdev_us + change_us, self.delivered + 1)


RTT_US = st.one_of(st.integers(0, 100), st.integers(0, 100_000_000))


@pytest.fixture(scope="module")
def rtt_sample(tmp_path_factory):
    """Return what bpf/rtt/estimate.h makes of two looks at an estimate, in the kernel."""
    source = tmp_path_factory.mktemp("estimate") / "rtt_sample.c"
    source.write_text(ESTIMATE)
    program = Program(source)
    return lambda before, now: program.fire("tcp_probe", *before, *now)


@settings(deadline=None)
@given(earlier=st.lists(RTT_US, max_size=20), rtt_us=RTT_US)
def test_a_sample_is_told_from_its_trace(rtt_sample, earlier, rtt_us):
    """R5: whatever samples came before, the next one is found exactly, also one that is equal to the average."""
    before = Estimate(0, 0, 1)
    for sample_us in earlier:
        before = before.after(sample_us)
    assert rtt_sample(before, before.after(rtt_us)) == rtt_us
    assert rtt_sample(before, before) == NO_SAMPLE


@settings(deadline=None)
@given(earlier=st.lists(RTT_US, min_size=1, max_size=20))
def test_what_was_retransmitted_is_no_sample(rtt_sample, earlier):
    """R5: a segment that was acknowledged without a sample (Karn's algorithm) is not taken for one."""
    before = Estimate(0, 0, 1)
    for sample_us in earlier:
        before = before.after(sample_us)
    if before.mdev_us >= 4:  # below a microsecond of deviation nobody can tell that from a sample equal to the average
        assert rtt_sample(before, before._replace(delivered=before.delivered + 1)) == NO_SAMPLE


def test_two_samples_are_not_taken_for_one(rtt_sample):
    """R5: when a look was left out, so that two samples came between, that is said and nothing is guessed."""
    before = Estimate(0, 0, 1).after(50).after(60).after(40)
    for first_us, second_us in ((70, 30), (30, 70), (45, 44), (20_000, 20_000), (0, 0)):
        assert rtt_sample(before, before.after(first_us).after(second_us)) == UNCLEAR


def fire(cpu, program, skaddr, times):
    """Start a process that runs the program on one processor, as if segments had come for a socket; returns its id.

    The kernel runs none so whose arguments have types: it takes TYPED=0.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        os.sched_setaffinity(0, {cpu})
        for _ in range(times):
            program.fire("tcp_probe", skaddr, 0)
    except BaseException:  # noqa: BLE001 (this is a process of its own, and the suite is not to go on in it)
        os._exit(1)
    os._exit(0)


@pytest.fixture
def fired(net, monkeypatch):
    """Let two processors at once add 100,000 values each for one open connection; returns the totals, and the value."""
    monkeypatch.setattr("lab.ebpf.attach.mechanism", lambda: "tracepoint")  # what stands at a function cannot be fired

    def add(program):
        with ExitStack() as open_connection:
            with record("states") as recorder:
                talk = open_connection.enter_context(conversing(net))
                talk.exchange(100)
            changes = recorder.recording.events["states"]
            mine = (changes["netns"] == net.client.inode) & (changes["newstate"] == State.ESTABLISHED)
            (skaddr,) = changes["skaddr"][mine]
            program.take_totals()
            cpus = sorted(os.sched_getaffinity(0))
            children = [fire(cpu, program, int(skaddr), TIMES) for cpu in (cpus[0], cpus[-1])]
            assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
            (row,) = folded(program.take_totals())
            return row, talk.client_info().rtt_us

    return add


def test_sums_are_exact_on_two_processors(fired):
    """R3: two processors add to the same histogram at the same time, and not one of 200,000 values is lost."""
    row, rtt_us = fired(Program.load("rtt", ("KEEP_RTT=0", "TYPED=0")))
    assert row["count"] == row["slots"].sum() == 2 * TIMES
    assert row["sum_us"] == 2 * TIMES * rtt_us
    assert row["min_us"] == row["max_us"] == rtt_us


def test_sums_without_atomic_operations_are_caught(fired, tmp_path):
    """R3: the same with sums that processors share and add to as C does: values are lost, and this suite sees it."""
    changes = {r"__sync_fetch_and_add\(&(.*), (.*)\);": r"\1 += \2;", r"key->cpu = .*;": "", r"key->again = .*;": ""}
    row, rtt_us = fired(changed(tmp_path, "rtt", *changes.items(), defines=("KEEP_RTT=0", "TYPED=0")))
    right = [2 * TIMES, 2 * TIMES, 2 * TIMES * rtt_us]
    assert [row["count"], row["slots"].sum(), row["sum_us"]] != right


def test_no_room_is_counted(net):
    """R2: when there is no room for a group its values are counted as lost, each of them, and the others are right."""
    roomy, tight = Program.load("rtt"), Program.load("rtt", ("MOST_KEYS=32",))
    with record(programs={"roomy": roomy, "tight": tight}, devices=[net.server.device], lossy=True) as recorder:
        with converse(net, Conversation(), connections=100):
            pass
        net.quiesce()
    recording = recorder.recording
    everything, some = (folded(recording.totals[name]) for name in ("roomy", "tight"))
    assert recording.lost["roomy"] == 0
    assert len(some) < len(everything)
    assert recording.lost["tight"] == everything["count"].sum() - some["count"].sum() > 0


def test_no_room_for_a_socket_is_counted(net):
    """R2: a socket that cannot be followed for want of room counts as lost."""
    program = Program.load("rtt", ("MOST_SOCKETS=10",))
    with record(programs={"rtt": program}, devices=[net.server.device], lossy=True) as recorder:
        with converse(net, Conversation(), connections=50, pause=True) as demo:
            demo.await_pause()
            demo.resume()
        net.quiesce()
    assert recorder.recording.lost["rtt"] > 0


def test_sockets_leave_the_map(net):
    """The map of sockets is empty when all of them are closed, so that it does not grow in a day's run."""
    program = Program.load("rtt", ("MOST_SOCKETS=10",))
    with record(programs={"rtt": program}, devices=[net.server.device]) as recorder:
        for how in ("close", "shutdown", "rst"):
            with converse(net, Conversation(how=how), connections=50, concurrency=1):
                pass
        net.quiesce()
    assert recorder.recording.lost["rtt"] == 0
