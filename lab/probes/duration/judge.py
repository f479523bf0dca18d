"""The judge of the probe `duration`: each connection's row at each interface against the truth."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from lab.arrays import UNKNOWN, Rows
from lab.observation import Observed
from lab.probes.duration.measure import lifetimes
from lab.tcp import UNSPECIFIED, Ended, Flow, Side, address_text
from lab.truth.durations import Truth, seen_at, tapped_at, truth_of
from lab.verdict import Bracket, Check, Judge


def checks(observed: Observed, scenario: str) -> Iterator[Check]:
    """Yield every check of the rows of each interface against the logs of both applications and of the wire."""
    judge = observed.judge(scenario, "duration")
    rows = lifetimes(observed.recording.events["duration"], observed.end_ns)
    known = [(truth_of(connection, observed.end_ns), on_wire) for connection, on_wire in observed.with_wire()]
    flows = [connection.client.flow for connection in observed.connections]
    for ifindex, (ifname, inode) in observed.recording.devices.items():
        if inode not in observed.inodes:
            continue
        side = (Side.CLIENT, Side.SERVER)[observed.inodes.index(inode)]
        place = f"at {ifname} of the {side.name.lower()}"
        truths = [seen_at(side, truth, on_wire) if on_wire else truth for truth, on_wire in known]
        tapped = [observed.seen_at(connection, ifindex) for connection in observed.connections]
        truths = [tapped_at(side, truth, seen) if seen else truth for truth, seen in zip(truths, tapped, strict=True)]
        here = rows[rows["ifindex"] == ifindex]
        matched, unmatched = _matched(here, flows, truths)
        yield judge.equal(f"all connections {place}", "rows without a connection", 0, unmatched)
        for flow, truth, row in zip(flows, truths, matched, strict=True):
            yield from _judge_row(judge, f"{flow} {place}", flow, truth, None if row is None else here[row])


def _judge_row(judge: Judge, subject: str, flow: Flow, truth: Truth, row: np.void | None) -> Iterator[Check]:
    yield judge.equal(subject, "seen", "once", "never" if row is None else "once")
    if row is None:
        return
    if flow.laddr not in UNSPECIFIED:
        yield judge.equal(subject, "client's address", flow.laddr, address_text(row["saddr"].tobytes()))
    start = truth.start
    yield judge.equal(subject, "only from", Side.NOBODY.name, Side(row["only_from"]).name)
    yield judge.duration(subject, "first SYN at", start, int(row["start_ns"]))
    yield judge.one_of(subject, "ended by", [ended.name for ended in truth.ended], Ended(row["ended"]).name)
    yield judge.count(subject, "SYN retransmissions", truth.syns_again, int(row["syn_retransmissions"]))
    if truth.fins_again:
        yield judge.count(subject, "FIN retransmissions", truth.fins_again, int(row["fin_retransmissions"]))
    if truth.ended[0] in (Ended.FIN, Ended.RST):
        answer = Bracket.between(start, truth.answered)
        yield judge.duration(subject, "first SYN to SYN-ACK", answer, int(row["synack_ns"]))
    else:
        yield judge.equal(subject, "first SYN to SYN-ACK", None, _or_none(row["synack_ns"]))
    if truth.ends:
        sides = [side.name for side in truth.closed_first]
        yield judge.one_of(subject, "closed first by", sides, Side(row["closed_first"]).name)
        yield judge.duration(subject, "first FIN or RST at", truth.first_end, int(row["end_ns"]))
        duration = Bracket.between(start, truth.first_end)
        yield judge.duration(subject, "first SYN to first FIN or RST", duration, int(row["duration_ns"]))
    else:
        yield judge.equal(subject, "first SYN to first FIN or RST", None, _or_none(row["duration_ns"]))
    if (second_fin := truth.second_fin) is not None:
        second = Bracket.between(start, second_fin)
        yield judge.duration(subject, "first SYN to second FIN", second, int(row["second_fin_ns"]))
    else:
        yield judge.equal(subject, "first SYN to second FIN", None, _or_none(row["second_fin_ns"]))


def _matched(rows: Rows, flows: list[Flow], truths: list[Truth]) -> tuple[list[int | None], int]:
    """Return for each connection the index of its row, or None; and the number of unmatched rows to the same servers.

    Rows and connections of one flow are matched by their start. A refused client may not know its port; a row to its
    server then goes to the first such connection whose brackets contain the row's start and its end, or its start only.
    """
    waiting: dict[tuple[str, int, int], list[int]] = defaultdict(list)
    for number, flow in sorted(enumerate(flows), key=lambda pair: truths[pair[0]].start.high):
        waiting[flow.raddr, flow.rport, flow.lport].append(number)
    servers = {(flow.raddr, flow.rport) for flow in flows}
    matched: list[int | None] = [None] * len(flows)
    left = []
    for index, row in enumerate(rows):
        server = (address_text(row["daddr"].tobytes()), int(row["dport"]))
        queues = [waiting[*server, port] for port in (int(row["sport"]), 0)]
        fits = [
            (queue, number)
            for queue in queues
            for number in queue
            if truths[number].start.low <= row["start_ns"] <= truths[number].start.high
        ]
        if fits:
            ended = (it for it in fits if _has_end(truths[it[1]], int(row["end_ns"])))
            queue, number = next(ended, fits[0])
            queue.remove(number)
            matched[number] = index
        elif server in servers:
            left.append((index, queues))
    unmatched = 0
    for (
        index,
        queues,
    ) in left:  # a row with a wrong start still needs its connection, so that the judge reports the start
        queue = queues[0] or queues[1]
        if queue:
            matched[queue.pop(0)] = index
        else:
            unmatched += 1
    return matched, unmatched


def _has_end(truth: Truth, end_ns: int) -> bool:
    return bool(truth.ends) and truth.first_end.low <= end_ns <= truth.first_end.high


def _or_none(value: int) -> int | None:
    return None if value == UNKNOWN else int(value)
