"""The probe `retransmits` against the truth: the wire's log, the kernel's counters, and the taps."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from lab.arrays import Rows
from lab.network.segment_parser import has, retransmitted
from lab.observation import Observed
from lab.packet import FIN, SYN
from lab.probes.retransmits.measure import Counter, sent
from lab.tcp import Flow
from lab.truth.taps import Seen
from lab.verdict import Bracket, Check, Judge


def checks(observed: Observed, scenario: str) -> Iterator[Check]:
    """Yield every check of the rows of both hosts."""
    judge = observed.judge(scenario, "retransmits")
    rows = Counter().rows(observed.recording.events["retransmits"])
    for inode, counted, name in zip(observed.inodes, observed.sent, ("client", "server"), strict=True):
        here = rows[rows["netns"] == inode]
        # tcpRetransSegs counts an attempt before it can fail (__tcp_retransmit_skb()).
        failed = int(here["segments"].sum()) - int(sent(here)["segments"].sum())
        truth = Bracket.late(max(0, counted.retransmitted - failed), counted.retransmitted)
        yield judge.count(f"the {name}'s host", "segments sent again", truth, int(sent(here)["segments"].sum()))
    by_flow = defaultdict[tuple[int, Flow], list[int]](list)
    done = sent(rows)
    for index, row in enumerate(done):
        by_flow[int(row["netns"]), Flow.of(row, "l", "r")].append(index)
    for connection, on_wire in observed.with_wire():
        flow = connection.client.flow
        ends = zip(observed.inodes, (flow, flow.reversed()), observed.seen(connection), strict=True)
        for number, (inode, mine, seen) in enumerate(ends):
            chosen, subject = done[by_flow[inode, mine]], str(mine)
            tapped = _again(seen.left) if seen else None
            if on_wire:
                again = _again(on_wire.streams[number].left)
                segments = Bracket.exactly(len(again))
                yield judge.count(subject, "segments sent again", segments, int(chosen["segments"].sum()))
                yield from _judge_contents(judge, subject, chosen, again)
            elif tapped is not None:
                yield from _judge_contents(judge, subject, chosen, tapped)
            if seen and tapped is not None and len(tapped) == len(chosen):
                yield from _judge_times(judge, subject, chosen, tapped, seen, observed.end_ns)


def _again(left: Rows) -> Rows:
    return left[retransmitted(left)]


def _judge_contents(judge: Judge, subject: str, rows: Rows, again: Rows) -> Iterator[Check]:
    size = int(again["payload"].sum())
    yield judge.count(subject, "bytes sent again", Bracket.exactly(size), int(rows["size"].sum()))
    for flag, name in ((SYN, "SYN"), (FIN, "FIN")):
        truth, counted = (int(has(its, flag).sum()) for its in (again, rows))
        yield judge.count(subject, f"{name} sent again", Bracket.exactly(truth), counted)
    numbers = [", ".join(map(str, np.sort(its["seq"]))) for its in (again, rows)]
    if len(again) == len(rows):  # otherwise the interface has cut a segment
        yield judge.equal(subject, "sequence numbers sent again", *numbers)


def _judge_times(judge: Judge, subject: str, rows: Rows, again: Rows, seen: Seen, end_ns: int) -> Iterator[Check]:
    """Judge when each segment was sent again: after it had passed the tap, and before the work that sent it was over."""
    for frame, row in zip(again, rows, strict=True):
        low_ns, high_ns = int(frame["low_ns"]), int(frame["high_ns"])
        at = Bracket.early(low_ns, min(end_ns, seen.done_ns(low_ns, high_ns)))
        yield judge.duration(subject, "segment sent again at", at, int(row["time_ns"]))
