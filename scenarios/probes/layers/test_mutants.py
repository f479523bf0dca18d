"""Variants of the probe `layers` that are wrong on purpose: the judge must catch each one, on injected delays."""

import os

import pytest
from support.cpu_hog import hog
from support.injected_delays import inject, verdicts
from support.mutants import caught, changed

from lab.network.relay import Relay
from lab.network.topology import topology
from lab.probes.layers.stages import Stages
from lab.recording.recorder import record
from lab.units import MS
from lab.verdict import Judge

ON_SEGMENT = r"    point->tsval = tsval;\n"
ON_CALL = r"    point->seq = seq;\n"
LATE = r"\g<0>    point->time_ns += 2000000;" + "\n"
LATE_CALL = LATE + "    point->enter_ns += 2000000;\n"
LATE_AT_TC = r"\g<0>    point->time_ns += at == POINT_TC_OUT ? 2000000 : 0;" + "\n"

ALSO_FOR_THE_DRIVER = r"""if (at == POINT_TC_OUT)
        report_segment(POINT_DEVICE_OUT, packet, payload_length(packet, ctx->len), tsval_of(&option), netns, NOT_KNOWN, NO_SOCKET);
    \g<0>"""

READY_WITH_THE_CALL = r"""\g<0>    if (call->at == POINT_READ) {
        struct point *ready = new_point(POINT_READY);

        if (ready) {
            fill_ends(ready, (const struct endpoints *)call->ends, false);
            ready->time_ns = call->enter_ns;
            ready->seq = seq + length;
            events.ringbuf_submit(ready, BPF_RB_NO_WAKEUP);
        }
    }
"""

NOT_EVERY_ONE = r"""BPF_ARRAY(segment_count, u64, 1);

\g<0>    int only = 0;
    u64 *count = segment_count.lookup(&only);

    if (count && ++*count % 7 == 0)
        return;
"""

CONVERSATIONS = 10  # at most

VARIANTS = {
    # Changes of the source, and the quantities that the judge must find wrong.
    "nothing": ([], set()),
    "a late clock": ([(ON_CALL, LATE_CALL), (ON_SEGMENT, LATE)], {"request written at", "reply read at"}),
    "TC egress reported late": ([(ON_SEGMENT, LATE_AT_TC)], {"layers that were not seen", "request qdisc"}),
    "the driver reported at TC egress": (
        [
            (r"report_segment\(at, packet,", ALSO_FOR_THE_DRIVER),
            (r"return report_skb\(.*, POINT_DEVICE_OUT\);", "return 0;"),
        ],
        {"request qdisc", "all but qdisc"},
    ),
    "readiness reported when the read is entered": (
        [(r"return report_ready\(.*\);", "return 0;"), (ON_CALL, READY_WITH_THE_CALL)],
        {"request queue", "all but queue"},
    ),
    "sleep in poll() not noticed": (
        [(r"note_waiter\(tcp\);", "")],
        {"request wake_up", "all but wake_up"},
    ),
    "sleep not noticed": ([(r"call->awake_ns = bpf_ktime_get_ns\(\);", "")], {"request wake_up", "all but wake_up"}),
    "every 7th segment not reported": (
        [(r"^static inline void report_segment\([^)]*\)\n\{\n", NOT_EVERY_ONE)],
        {"layers that were not seen"},
    ),
}


@pytest.fixture(scope="module")
def place():
    """Yield a network and a CPU hog for all tests of this module."""
    with topology(Relay()) as net, hog() as cpu_hog:
        os.sched_setaffinity(net.link.pid, os.sched_getaffinity(0))
        yield net, cpu_hog


@pytest.mark.parametrize("variant", VARIANTS)
def test_variant(place, tmp_path, variant):
    """The judge finds the expected quantities wrong for each changed probe, and none for the unchanged one.

    On a busy machine the brackets of a conversation can be wider than the error of the probe. The test then holds
    another one.
    """
    net, cpu_hog = place
    changes, expected = VARIANTS[variant]
    program, wrong = changed(tmp_path, "layers", *changes), set()
    for _ in range(CONVERSATIONS):
        with record(programs={"layers": program}, devices=net.devices, lossy=True) as recorder:
            injected, connection = inject(net, 4, cpu_hog, delays_ns=(5 * MS,))
            net.quiesce()
        recorder.recording.require_complete()
        stages = Stages(recorder.recording.events["layers"], net.inodes)
        wrong |= caught(verdicts(Judge(variant, "layers", ""), stages, injected, connection))
        if expected <= wrong:
            break
    assert expected <= wrong
    assert bool(wrong) == bool(changes)
