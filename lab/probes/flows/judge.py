"""The judge of the probe `flows`: packets and bytes of each connection, by direction, at both hosts."""

from collections import defaultdict
from collections.abc import Container, Iterator
from typing import NamedTuple

import numpy as np

from lab.arrays import Rows
from lab.observation import Observed
from lab.packet import TCP
from lab.probes.flows import measure
from lab.probes.flows.measure import Direction
from lab.tcp import UNSPECIFIED, Flow
from lab.timeline import Connection
from lab.truth.taps import by, since
from lab.truth.volumes import Volumes, segments_sent
from lab.truth.wire import Counts, counts
from lab.verdict import Bracket, Check, Judge

_FLOW = ("ifindex", "direction", "saddr", "daddr", "sport", "dport")


def checks(observed: Observed, scenario: str) -> Iterator[Check]:
    """Yield the checks of the counts at both hosts against the applications' timelines and the hosts' own counters.

    A wire with a log gives the exact counts that left one host and arrived at the other. Without a log, the counts at
    both hosts must be equal: that wire must neither drop nor duplicate frames.
    """
    judge = observed.judge(scenario, "flows")
    indexes = {inode: index for index, (_, inode) in observed.recording.devices.items()}
    client, server = (indexes[inode] for inode in observed.inodes)
    totals = observed.recording.totals["flows"]
    tcp = totals[(totals["protocol"] == TCP) & (totals["version"] > 0)]
    for name, index, sent in zip(("client", "server"), (client, server), observed.sent, strict=True):
        mine = tcp[(tcp["ifindex"] == index) & (tcp["direction"] == Direction.EGRESS)]
        yield judge.count(f"the {name}'s host", "TCP packets sent", segments_sent(sent), int(mine["packets"].sum()))
    by_flow = defaultdict[Flow, list[Connection]](list)
    for connection in observed.connections:
        by_flow[connection.client.flow].append(connection)
    counted = {_key_of(row): row for row in measure.merged(tcp, _FLOW)}
    sent_by_client = [flow for index, direction, flow in counted if (index, direction) == (client, Direction.EGRESS)]
    for stated, connections in by_flow.items():
        flows = _candidates(stated, sent_by_client, by_flow)
        directions = (
            ("client", flows, client, server),
            ("server", [flow.reversed() for flow in flows], server, client),
        )
        for (role, sides, here, there), sent in zip(directions, observed.sent, strict=True):
            left = _sum(tcp, [counted.get((here, Direction.EGRESS, side)) for side in sides])
            arrived = _sum(tcp, [counted.get((there, Direction.INGRESS, side)) for side in sides])
            subject = str(stated if role == "client" else stated.reversed())
            yield from _judge_volumes(
                judge,
                subject,
                Volumes(connections, role, sent, observed.end_ns, observed.mtu, observed.link_header),
                left,
                arrived,
                _passed(observed, connections, here, there),
            )
            stream = observed.wire.stream(*sides) if observed.wire else None
            if stream:
                yield judge.equal(subject, "what left", str(counts(stream.left)), str(_counts(left)))
            yield judge.equal(
                subject, "what arrived", str(counts(stream.arrived) if stream else _counts(left)), str(_counts(arrived))
            )


def _candidates(flow: Flow, seen: list[Flow], others: Container[Flow]) -> list[Flow]:
    """Return the flows of a connection that `seen` may contain: the flow itself, if its local address is known.

    The client of a refused connection may not know its local address. Then these are the flows to the same peer that
    belong to no other connection.
    """
    if flow.laddr not in UNSPECIFIED:
        return [flow]
    ends = (flow.raddr, flow.rport)
    return [it for it in seen if (it.raddr, it.rport) == ends and flow.lport in (0, it.lport) and it not in others]


def _sum(tcp: Rows, found: list[np.void | None]) -> np.void:
    """Add up rows of flows; None, for a flow that was not counted, adds nothing."""
    rows = np.array([row for row in found if row is not None], measure.merged(tcp[:0], _FLOW).dtype)
    summed = measure.merged(rows, ("ifindex", "direction"))
    row: np.void = summed[0] if len(summed) else np.zeros(1, summed.dtype)[0]
    return row


class _Passed(NamedTuple):
    """When the first packet of each connection passed an interface, and when the last one did, as a tap saw."""

    first: list[Bracket]
    last: list[Bracket]


def _passed(observed: Observed, connections: list[Connection], here: int, there: int) -> tuple[_Passed, _Passed]:
    """Return when packets left at one interface and arrived at another (by ifindex), nothing if one of them has no tap."""
    left, arrived = _Passed([], []), _Passed([], [])
    for connection in connections:
        sender, receiver = (observed.seen_at(connection, ifindex) for ifindex in (here, there))
        if not (sender and receiver and len(sender.left) and len(receiver.came)):
            return _Passed([], []), _Passed([], [])
        left.first.append(sender.leaving(sender.left[0]))
        left.last.append(sender.leaving(sender.left[-1]))
        arrived.first.append(receiver.coming(receiver.came[0]))
        # Another CPU may have finished a packet that came before this one later.
        last = receiver.came[-1]
        arrived.last.append(Bracket.early(since(last), receiver.interrupt_ns(by(last))))
    return left, arrived


def _judge_volumes(
    judge: Judge, subject: str, volumes: Volumes, left: np.void, arrived: np.void, passed: tuple[_Passed, _Passed]
) -> Iterator[Check]:
    packets, size, payload = (int(left[name]) for name in ("packets", "bytes", "payload_bytes"))
    yield judge.count(subject, "payload bytes", volumes.payload, payload)
    yield judge.count(subject, "packets", volumes.packets, packets)
    headers = Bracket.early(packets * volumes.headers.fewest, packets * volumes.headers.most)
    yield judge.count(subject, "bytes of headers", headers, size - payload)
    yield judge.count(subject, "SYN", volumes.syns, int(left["syns"]))
    yield judge.count(subject, "FIN", volumes.fins, int(left["fins"]))
    if packets:
        for host, row, (first, last) in zip(("left", "arrived"), (left, arrived), passed, strict=True):
            yield judge.duration(subject, f"first packet {host} at", volumes.first(first), int(row["first_ns"]))
            yield judge.duration(subject, f"last packet {host} at", volumes.last(last), int(row["last_ns"]))


def _counts(row: np.void) -> Counts:
    return Counts(*(int(row[name]) for name in ("packets", "bytes", "payload_bytes", "syns", "fins")))


def _key_of(row: np.void) -> tuple[int, int, Flow]:
    return int(row["ifindex"]), int(row["direction"]), Flow.of(row)
