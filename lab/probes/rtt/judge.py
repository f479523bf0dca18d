"""The judge of the probe `rtt`: samples, smoothed RTT and histograms of each socket against the truth."""

from collections.abc import Iterator
from itertools import groupby

import numpy as np

from lab.log2_histogram import slot_of
from lab.observation import Observed
from lab.probes.rtt.measure import Kind, folded, of_hosts
from lab.tcp import Flow
from lab.timeline import Connection
from lab.truth import rtt as truth_rtt
from lab.truth.rtt import Samples
from lab.truth.wire import OnWire
from lab.verdict import Bracket, Check, Judge

_RESOLUTION_NS = 1000  # the kernel subtracts times in whole microseconds
_BY_TIME_STAMPS_NS = 1_000_000  # tick of the TCP time stamps, which measure retransmitted segments (RFC 7323, 4)


def checks(observed: Observed, scenario: str, least_ns: int = 0) -> Iterator[Check]:
    """Yield every check of each socket's totals against the logs of both applications and of the wire.

    `least_ns` is the shortest round trip of the wire, in nanoseconds. If there is a log of the wire, it is used
    instead, for each connection.
    """
    judge = observed.judge(scenario, "rtt")
    rows = folded(of_hosts(observed.recording.totals["rtt"], observed.inodes))
    by_socket = {(int(row["netns"]), Flow.of(row, "l", "r"), Kind(row["kind"])): row for row in rows}
    client, server = observed.inodes
    again = {id(connection): _syn_ack_again(observed, on_wire) for connection, on_wire in observed.with_wire()}

    def sent_by_server(connection: Connection, end_ns: int) -> list[truth_rtt.Sent]:
        return truth_rtt.sent_by_server(connection, end_ns, syn_ack_again=again[id(connection)])

    by_flow = sorted(observed.connections, key=lambda connection: connection.client.flow)
    for flow, group in groupby(by_flow, key=lambda connection: connection.client.flow):
        same_flow = list(group)  # the probe adds up successive connections of the same ports in one group
        sides = (
            (client, flow, truth_rtt.sent_by_client, observed.sent),
            (server, flow.reversed(), sent_by_server, observed.sent[::-1]),
        )
        for inode, here, sent_by, (counted, of_peer) in sides:
            sent = [one for connection in same_flow for one in sent_by(connection, observed.end_ns)]
            if sent:
                srtt, rtt = (by_socket.get((inode, here, kind), np.zeros((), rows.dtype)[()]) for kind in Kind)
                # TCP also retransmits segments that are late, not lost (RFC 8985). This happens on a busy machine.
                sent_again, shortest_ns = counted.retransmitted, least_ns
                # A link without a log may deliver a segment twice.
                arrived = 2 * (of_peer.segments + of_peer.retransmitted)
                if observed.wire:
                    arrived = len(observed.wire.stream(here.reversed()).arrived)
                    sent_again = observed.wire.stream(here).again
                    shortest_ns = observed.wire.shortest_round_trip_ns(flow)
                if sent_again and not observed.timestamps:
                    # Without time stamps a segment that was sent again has no sample (Karn's algorithm, RFC 6298, 3).
                    sent = [one._replace(certain=False) for one in sent]
                resolution_ns = _BY_TIME_STAMPS_NS if sent_again else _RESOLUTION_NS
                yield from _judge_socket(
                    judge, str(here), srtt, rtt, truth_rtt.samples(sent, shortest_ns), arrived, resolution_ns
                )


def _syn_ack_again(observed: Observed, on_wire: OnWire | None) -> bool:
    """Return whether a connection's SYN-ACK may have been sent more than once, by the wire's log or the host's counter."""
    return on_wire.syn_acks > 1 if on_wire else observed.sent[1].retransmitted_syns > 0


def _judge_socket(
    judge: Judge, subject: str, srtt: np.void, rtt: np.void, truth: Samples, arrived: int, resolution_ns: int
) -> Iterator[Check]:
    def time(quantity: str, truth: Bracket, us: int, samples: int = 1) -> Check:
        return judge.duration(subject, quantity, truth, us * 1000, resolution_ns * samples)

    yield judge.count(subject, "RTT samples", truth.number, int(rtt["count"]) + int(rtt["distorted"]))
    yield judge.equal(subject, "unclear RTT samples", 0, int(rtt["unclear"]))
    # Each message that was certainly acknowledged has a segment of its own. Every other segment that arrived may have one.
    least = max(0, truth.number.low - 1)
    yield judge.count(subject, "segments with an srtt", Bracket.early(least, max(least, arrived)), int(srtt["count"]))
    if rtt["count"]:
        # A distorted sample, which may be the smallest one, is not among them.
        yield time("smallest RTT sample", truth.largest if rtt["distorted"] else truth.smallest, int(rtt["min_us"]))
        yield time("largest RTT sample", truth.largest, int(rtt["max_us"]))
        if truth.total and rtt["count"] == truth.number.high:
            yield time("sum of RTT samples", truth.total, int(rtt["sum_us"]), int(rtt["count"]))
        yield _judge_buckets(judge, subject, "RTT", rtt)
    if srtt["count"]:
        yield time("smallest srtt", truth.largest, int(srtt["min_us"]))
        yield time("largest srtt", truth.largest, int(srtt["max_us"]))
        yield _judge_buckets(judge, subject, "srtt", srtt)
        if (
            rtt["count"] and not rtt["distorted"]
        ):  # a distorted sample is part of the average, and its value is not kept
            # An average is between its smallest and largest sample. The rounding of tcp_rtt_estimator() keeps this
            # exact.
            among = Bracket.late(int(rtt["min_us"]), int(rtt["max_us"]))
            yield judge.count(subject, "smallest srtt among the samples, us", among, int(srtt["min_us"]))
            yield judge.count(subject, "largest srtt among the samples, us", among, int(srtt["max_us"]))


def _judge_buckets(judge: Judge, subject: str, kind: str, row: np.void) -> Check:
    """Check that the histogram has `count` values, from the slot of the minimum to the slot of the maximum."""
    held, ends = np.flatnonzero(row["slots"]), [slot_of(int(row[name])) for name in ("min_us", "max_us")]
    expected = f"{row['count']} in slots {ends[0]} to {ends[1]}"
    measured = f"{row['slots'].sum()} in slots {held[0]} to {held[-1]}" if len(held) else "empty"
    return judge.equal(subject, f"{kind} histogram", expected, measured)
