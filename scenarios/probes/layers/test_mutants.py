"""Variants of the probe `layers` that are wrong on purpose: the judge must catch each, on requests delayed in one place at a time."""

import os

import pytest
from support.cpu_hog import hog
from support.injected_delays import inject, verdicts
from support.mutants import caught, changed

from lab.ebpf.recorder import record
from lab.network.relay import Relay
from lab.network.topology import topology
from lab.probes.layers.stages import Stages
from lab.units import MS
from lab.verdict import Judge

SEGMENT_TOLD = r"    point->tsval = tsval;\n"
CALL_TOLD = r"    point->seq = call->seq;\n"
LATE = r"\g<0>    point->time_ns += 2000000;" + "\n"
LATE_CALL = LATE + "    point->enter_ns += 2000000;\n"
LATE_AT_TC = r"\g<0>    point->time_ns += at == POINT_TC_OUT ? 2000000 : 0;" + "\n"

ALSO_FOR_THE_DRIVER = r"""if (at == POINT_TC_OUT)
        report_segment(POINT_DEVICE_OUT, packet, end - packet->payload_at, tsval_of(&option), netns);
    \g<0>"""

READY_WITH_THE_CALL = r"""\g<0>    if (call->at == POINT_READ) {
        struct point *ready = new_point(POINT_READY);

        if (ready) {
            fill_ends(ready, (const struct endpoints *)call->ends, false);
            ready->time_ns = call->enter_ns;
            ready->seq = call->seq + length;
            events.ringbuf_submit(ready, BPF_RB_NO_WAKEUP);
        }
    }
"""

NOT_EVERY_ONE = r"""BPF_ARRAY(told, u64, 1);

\g<0>    int only = 0;
    u64 *count = told.lookup(&only);

    if (count && ++*count % 7 == 0)
        return;
"""

CONVERSATIONS = 10  # at most

VARIANTS = {
    # What is changed, and where it must show.
    "nothing": ([], set()),
    "a late clock": ([(CALL_TOLD, LATE_CALL), (SEGMENT_TOLD, LATE)], {"request written at", "reply read at"}),
    "TC egress told late": ([(SEGMENT_TOLD, LATE_AT_TC)], {"request shortest layer", "request qdisc"}),
    "the driver told at TC egress": (
        [
            (r"report_segment\(at, packet,", ALSO_FOR_THE_DRIVER),
            (r"return report_skb\(.*, POINT_DEVICE_OUT\);", "return 0;"),
        ],
        {"request qdisc", "all but qdisc"},
    ),
    "readiness told when the read is entered": (
        [(r"return report_ready\(.*\);", "return 0;"), (CALL_TOLD, READY_WITH_THE_CALL)],
        {"request queue", "all but queue"},
    ),
    "sleep in poll() not noticed": (
        [(r"call->told_ns = bpf_ktime_get_ns\(\);", "call->told_ns = 0;")],
        {"request wake_up", "all but wake_up"},
    ),
    "sleep not noticed": ([(r"call->awake_ns = bpf_ktime_get_ns\(\);", "")], {"request wake_up", "all but wake_up"}),
    "every 7th segment not told": (
        [(r"^static inline void report_segment\(.*\n\{\n", NOT_EVERY_ONE)],
        {"layers that were not seen"},
    ),
}


@pytest.fixture(scope="module")
def place():
    """Build a network and have a hog, for all of these tests."""
    with topology(Relay()) as net, hog() as it:
        os.sched_setaffinity(net.link.pid, os.sched_getaffinity(0))
        yield net, it


@pytest.mark.parametrize("variant", VARIANTS)
def test_variant(place, tmp_path, variant):
    """What is wrong with the probe shows in its numbers, and when nothing is, nothing does.

    On a busy machine the truth of one conversation can be wider than the probe is wrong: then another one is held.
    """
    net, it = place
    changes, expected = VARIANTS[variant]
    program, wrong = changed(tmp_path, "layers", *changes), set()
    for _ in range(CONVERSATIONS):
        with record(programs={"layers": program}, devices=net.devices, lossy=True) as recorder:
            told, connection = inject(net, 4, it, delays_ns=(5 * MS,))
            net.quiesce()
        recorder.recording.require_complete()
        stages = Stages(recorder.recording.events["layers"], net.inodes)
        wrong |= caught(verdicts(Judge(variant, "layers", ""), stages, told, connection))
        if expected <= wrong:
            break
    assert expected <= wrong
    assert bool(wrong) == bool(changes)
