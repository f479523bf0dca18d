"""The probe `drops` against the truth: what the taps saw at both hosts, and which connections were refused."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from lab.observation import Observed
from lab.packet import SYN
from lab.probes.drops.measure import with_size
from lab.probes.drops.reasons import NO_LOSS, numbers
from lab.tcp import Flow
from lab.verdict import Bracket, Check


def checks(observed: Observed, scenario: str) -> Iterator[Check]:
    """Yield every check of the rows of both hosts."""
    judge = observed.judge(scenario, "drops")
    rows = with_size(observed.recording.events["drops"])
    server = observed.inodes[1]
    refused = [it.client.flow for it in observed.connections if it.client.opening.error == "ECONNREFUSED"]
    targets = {(flow.raddr, flow.rport) for flow in refused}
    unanswered = rows[
        (rows["netns"] == server) & (rows["flags"] == SYN) & np.isin(rows["reason"], numbers({"NO_SOCKET"}))
    ]
    found = [flow for flow in (Flow.of(row) for row in unanswered) if (flow.raddr, flow.rport) in targets]
    yield judge.count("all connections", "SYNs without a socket", Bracket.exactly(len(refused)), len(found))
    lost = ~np.isin(rows["reason"], numbers(NO_LOSS))
    by_flow = defaultdict[tuple[int, Flow], list[int]](list)
    for index, row in enumerate(rows):
        by_flow[int(row["netns"]), Flow.of(row)].append(index)
    for connection in observed.connections:
        mine = connection.client.flow
        for inode, flow, seen in zip(observed.inodes, (mine.reversed(), mine), observed.seen(connection), strict=True):
            if seen is None:
                continue
            here = by_flow[inode, flow]
            never = ~np.isin(rows["seq"][here], seen.came["seq"])
            yield judge.count(str(flow), "packets given up that never came", Bracket.exactly(0), int(never.sum()))
            size = int(rows["size"][here][lost[here]].sum())
            most = int(seen.came["payload"].sum())
            yield judge.count(str(flow), "bytes given up", Bracket.early(0, most), size)
