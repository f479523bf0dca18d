"""The totals of the probe `rtt`: they are exact, and values without room are counted as lost."""

import os
from contextlib import ExitStack
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.lockstep import conversing
from support.mutants import changed

from lab.ebpf.program import Program
from lab.log2_histogram import SLOTS, slot_of
from lab.probes.rtt.measure import folded
from lab.recording.recorder import record
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
    """Return a function that runs `log2_slot` of bpf/include/log2_histogram.h in the kernel."""
    source = tmp_path_factory.mktemp("log2") / "log2_slot.c"
    source.write_text(LOG2)
    program = Program(source)
    return lambda value: program.fire("tcp_probe", value)


def test_bucket_edges(log2_slot):
    """R4: the first bucket has 0 and 1, the second 2 and 3; 2^n is the first value of a bucket, 2^n - 1 the last."""
    assert {value: log2_slot(value) for value in EDGES} == EDGES


@settings(deadline=None)
@given(st.integers(0, (1 << SLOTS) - 1))
def test_every_value_has_its_bucket(log2_slot, value):
    """R4: the program and Python put every value in the same bucket."""
    assert log2_slot(value) == slot_of(value)


class Estimate(NamedTuple):
    """Smoothed RTT times 8, mean deviation times 4, and number of acknowledged segments."""

    srtt_us: int
    mdev_us: int
    delivered: int

    def after(self, rtt_us):
        """Return the estimate after one more sample: RFC 6298 (2.2, 2.3), as in `tcp_rtt_estimator()`.

        The kernel uses a smaller gain for the deviation if the RTT falls.
        """
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
    """Return a function that runs `rtt_sample` of bpf/rtt/estimate.h on two estimates, in the kernel."""
    source = tmp_path_factory.mktemp("estimate") / "rtt_sample.c"
    source.write_text(ESTIMATE)
    program = Program(source)
    return lambda before, now: program.fire("tcp_probe", *before, *now)


@settings(deadline=None)
@given(earlier=st.lists(RTT_US, max_size=20), rtt_us=RTT_US)
def test_a_sample_is_recovered_exactly(rtt_sample, earlier, rtt_us):
    """R5: the next sample is recovered exactly after any earlier samples, even if it equals the average."""
    before = Estimate(0, 0, 1)
    for sample_us in earlier:
        before = before.after(sample_us)
    assert rtt_sample(before, before.after(rtt_us)) == rtt_us
    assert rtt_sample(before, before) == NO_SAMPLE


@settings(deadline=None)
@given(earlier=st.lists(RTT_US, min_size=1, max_size=20))
def test_an_acknowledgement_without_a_sample(rtt_sample, earlier):
    """R5: an acknowledged retransmission has no sample (Karn's algorithm), and none is reported."""
    before = Estimate(0, 0, 1)
    for sample_us in earlier:
        before = before.after(sample_us)
    if before.mdev_us >= 4:  # with a deviation below 1 µs, a sample equal to the average also changes nothing
        assert rtt_sample(before, before._replace(delivered=before.delivered + 1)) == NO_SAMPLE


def test_two_samples_are_unclear(rtt_sample):
    """R5: if two samples lie between two estimates, the result is UNCLEAR, not a wrong sample."""
    before = Estimate(0, 0, 1).after(50).after(60).after(40)
    for first_us, second_us in ((70, 30), (30, 70), (45, 44), (20_000, 20_000), (0, 0)):
        assert rtt_sample(before, before.after(first_us).after(second_us)) == UNCLEAR


def fire(cpu, program, skaddr, times):
    """Start a process that runs the program on one processor, as for segments of a socket; return its process id.

    The kernel cannot test-run a program with typed arguments (tp_btf), so the program has to be compiled with TYPED=0.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        os.sched_setaffinity(0, {cpu})
        for _ in range(times):
            program.fire("tcp_probe", skaddr, 0)
    except BaseException:  # noqa: BLE001 (the forked child must not continue the suite)
        os._exit(1)
    os._exit(0)


@pytest.fixture
def fired(net, monkeypatch):
    """Return a function that adds 100,000 values on each of two processors at once, for one open connection.

    It returns the row of the totals and the value.
    """
    monkeypatch.setattr(
        "lab.ebpf.attach.mechanism", lambda: "tracepoint"
    )  # a program at a kernel function cannot be test-run

    def add(program):
        with ExitStack() as open_connection:
            with record("states") as recorder:
                talk = open_connection.enter_context(conversing(net))
                talk.exchange(100)
            changes = recorder.recording.events["states"]
            of_client = (changes["netns"] == net.client.inode) & (changes["newstate"] == State.ESTABLISHED)
            (skaddr,) = changes["skaddr"][of_client]
            program.take_totals()
            cpus = sorted(os.sched_getaffinity(0))
            children = [fire(cpu, program, int(skaddr), TIMES) for cpu in (cpus[0], cpus[-1])]
            assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
            (row,) = folded(program.take_totals())
            return row, talk.client_info().rtt_us

    return add


def test_sums_are_exact_on_two_processors(fired):
    """R3: two processors add to the same histogram at the same time, and none of 200,000 values is lost."""
    row, rtt_us = fired(Program.load("rtt", ("KEEP_RTT=0", "TYPED=0")))
    assert row["count"] == row["slots"].sum() == 2 * TIMES
    assert row["sum_us"] == 2 * TIMES * rtt_us
    assert row["min_us"] == row["max_us"] == rtt_us


def test_sums_without_atomic_operations_are_caught(fired, tmp_path):
    """R3: if the processors share an entry and add with plain `+=`, values are lost, and the test detects it."""
    changes = {r"__sync_fetch_and_add\(&(.*), (.*)\);": r"\1 += \2;", r"key->cpu = .*;": "", r"key->again = .*;": ""}
    row, rtt_us = fired(changed(tmp_path, "rtt", *changes.items(), defines=("KEEP_RTT=0", "TYPED=0")))
    right = [2 * TIMES, 2 * TIMES, 2 * TIMES * rtt_us]
    assert [row["count"], row["slots"].sum(), row["sum_us"]] != right


def test_no_room_is_counted(net):
    """R2: if there is no room for a group, each of its values is counted as lost; the other groups are right."""
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
    """R2: a socket without room in the map of sockets is counted as lost."""
    program = Program.load("rtt", ("MOST_SOCKETS=10",))
    with record(programs={"rtt": program}, devices=[net.server.device], lossy=True) as recorder:
        with converse(net, Conversation(), connections=50, pause=True) as demo:
            demo.await_pause()
            demo.resume()
        net.quiesce()
    assert recorder.recording.lost["rtt"] > 0


def test_sockets_leave_the_map(net):
    """Closed sockets are removed from the map, so it does not fill up over time."""
    program = Program.load("rtt", ("MOST_SOCKETS=10",))
    with record(programs={"rtt": program}, devices=[net.server.device]) as recorder:
        for how in ("close", "shutdown", "rst"):
            with converse(net, Conversation(how=how), connections=50, concurrency=1):
                pass
        net.quiesce()
    assert recorder.recording.lost["rtt"] == 0
