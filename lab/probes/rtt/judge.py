"""The probe `rtt` against the truth: each socket's samples and averages, and the histograms that hold them."""

from collections.abc import Iterator
from itertools import groupby

import numpy as np

from lab.log2_histogram import slot_of
from lab.observation import Observed
from lab.probes.rtt.measure import Kind, folded, of_hosts
from lab.tcp import Flow
from lab.truth import rtt as truth_rtt
from lab.truth.rtt import Samples
from lab.verdict import Bracket, Check, Judge

_RESOLUTION_NS = 1000  # the kernel subtracts times that it has cut to whole microseconds
_BY_TIME_STAMPS_NS = 1_000_000  # the tick of TCP's time stamps, which measure what was sent again (RFC 7323, 4)


def checks(observed: Observed, scenario: str, least_ns: int = 0) -> Iterator[Check]:
    """Compare what the probe added up for each socket with what both applications know; yields every check.

    `least_ns` is what the wire alone takes for a round trip, in nanoseconds; a wire's log tells it for each connection.
    """
    judge = observed.judge(scenario, "rtt")
    rows = folded(of_hosts(observed.recording.totals["rtt"], observed.inodes))
    mine = {(int(row["netns"]), Flow.of(row, "l", "r"), Kind(row["kind"])): row for row in rows}
    client, server = observed.inodes
    by_flow = sorted(observed.connections, key=lambda connection: connection.client.flow)
    for flow, group in groupby(by_flow, key=lambda connection: connection.client.flow):
        same = list(group)  # connections that have used the same ports in turn are one group to the probe
        sides = (
            (client, flow, truth_rtt.sent_by_client, observed.sent[0]),
            (server, flow.reversed(), truth_rtt.sent_by_server, observed.sent[1]),
        )
        for inode, here, sent_by, counted in sides:
            sent = [one for connection in same for one in sent_by(connection, observed.end_ns)]
            if sent:
                srtt, rtt = (mine.get((inode, here, kind), np.zeros((), rows.dtype)[()]) for kind in Kind)
                # Nothing need have been lost: on a busy machine TCP takes for lost what is only late (RFC 8985).
                again, shortest_ns = counted.retransmitted, least_ns
                if observed.wire:
                    again, shortest_ns = observed.wire.stream(here).again, observed.wire.shortest_round_trip_ns(flow)
                resolution_ns = _BY_TIME_STAMPS_NS if again else _RESOLUTION_NS
                yield from _judge_socket(
                    judge, str(here), srtt, rtt, truth_rtt.samples(sent, shortest_ns), resolution_ns
                )


def _judge_socket(
    judge: Judge, subject: str, srtt: np.void, rtt: np.void, truth: Samples, resolution_ns: int
) -> Iterator[Check]:
    def time(quantity: str, truth: Bracket, us: int, samples: int = 1) -> Check:
        return judge.duration(subject, quantity, truth, us * 1000, resolution_ns * samples)

    yield judge.count(subject, "RTT samples", truth.number, int(rtt["count"]))
    yield judge.equal(subject, "unclear RTT samples", 0, int(rtt["unclear"]))
    # Each message that was certainly acknowledged was so by a segment of its own. How many others came nobody can tell.
    received, least = int(srtt["count"]), max(0, truth.number.low - 1)
    yield judge.count(subject, "segments with an srtt", Bracket(least, max(least, received), least), received)
    if rtt["count"]:
        yield time("smallest RTT sample", truth.smallest, int(rtt["min_us"]))
        yield time("largest RTT sample", truth.largest, int(rtt["max_us"]))
        if truth.total and rtt["count"] == truth.number.high:
            yield time("sum of RTT samples", truth.total, int(rtt["sum_us"]), int(rtt["count"]))
        yield _judge_buckets(judge, subject, "RTT", rtt)
    if srtt["count"]:
        yield time("smallest srtt", truth.largest, int(srtt["min_us"]))
        yield time("largest srtt", truth.largest, int(srtt["max_us"]))
        yield _judge_buckets(judge, subject, "srtt", srtt)
        if rtt["count"]:
            # An average lies among what it is made of; tcp_rtt_estimator() rounds in a way that keeps this exact.
            among = Bracket(int(rtt["min_us"]), int(rtt["max_us"]), int(rtt["max_us"]))
            yield judge.count(subject, "smallest srtt among the samples, us", among, int(srtt["min_us"]))
            yield judge.count(subject, "largest srtt among the samples, us", among, int(srtt["max_us"]))


def _judge_buckets(judge: Judge, subject: str, kind: str, row: np.void) -> Check:
    """Judge whether the histogram holds as many values as were counted, from the smallest one's slot to the largest one's."""
    held, ends = np.flatnonzero(row["slots"]), [slot_of(int(row[name])) for name in ("min_us", "max_us")]
    expected = f"{row['count']} in slots {ends[0]} to {ends[1]}"
    return judge.equal(subject, f"{kind} histogram", expected, f"{row['slots'].sum()} in slots {held[0]} to {held[-1]}")
