"""The probe `retransmits` against the truth: the wire's log, the kernel's counters, and the taps."""

from collections.abc import Iterator

import numpy as np

from lab.arrays import Rows
from lab.network.segment_parser import retransmitted
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
    done = sent(rows)
    flows = [(int(row["netns"]), Flow.of(row, "l", "r")) for row in done]
    for connection, on_wire in observed.with_wire():
        flow = connection.client.flow
        ends = zip(observed.inodes, (flow, flow.reversed()), observed.seen(connection), strict=True)
        for number, (inode, mine, seen) in enumerate(ends):
            chosen = done[[its == (inode, mine) for its in flows]]
            if on_wire:
                left = on_wire.streams[number].left
                again = Bracket.exactly(int(retransmitted(left).sum()))
                yield judge.count(str(mine), "segments sent again", again, int(chosen["segments"].sum()))
                yield from _judge_contents(judge, str(mine), chosen, left)
            if seen and not on_wire:
                yield from _judge_contents(judge, str(mine), chosen, seen.left)
            if seen:
                yield from _judge_times(judge, str(mine), chosen, seen, observed.end_ns)


def _judge_contents(judge: Judge, subject: str, rows: Rows, left: Rows) -> Iterator[Check]:
    again = left[retransmitted(left)]
    size = int(again["payload"].sum())
    yield judge.count(subject, "bytes sent again", Bracket.exactly(size), int(rows["size"].sum()))
    for flag, name in ((SYN, "SYN"), (FIN, "FIN")):
        truth = Bracket.exactly(int((again["flags"] & flag > 0).sum()))
        yield judge.count(subject, f"{name} sent again", truth, int((rows["flags"] & flag > 0).sum()))
    numbers = [", ".join(map(str, np.sort(its["seq"]))) for its in (again, rows)]
    if len(again) == len(rows):  # otherwise the interface has cut a segment
        yield judge.equal(subject, "sequence numbers sent again", *numbers)


def _judge_times(judge: Judge, subject: str, rows: Rows, seen: Seen, end_ns: int) -> Iterator[Check]:
    """Judge when each segment was sent again: after it had passed the tap, and before the work that sent it was over."""
    again = seen.left[retransmitted(seen.left)]
    if len(again) != len(rows):
        return
    for frame, row in zip(again, rows, strict=True):
        low_ns, high_ns = int(frame["low_ns"]), int(frame["high_ns"])
        at = Bracket.early(low_ns, min(end_ns, seen.done_ns(low_ns, high_ns)))
        yield judge.duration(subject, "segment sent again at", at, int(row["time_ns"]))
