"""The probe `layers` against the truth: each request's layers, beside the two applications' own stamps."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from lab.arrivals import turns as connections_in_time
from lab.exchanges import LEGS, exchanges
from lab.journeys import LAYERS, Rows, Stop, Ways
from lab.measure import UNKNOWN
from lab.observed import Observed
from lab.tcp import Flow, address_text
from lab.truth_layers import Leg, Turn, turns
from lab.verdict import Bracket, Check, Judge


def judge_all(observed: Observed, judge: Judge) -> Iterator[Check]:
    """Yield every check of a recording."""
    port = observed.connections[0].client.flow.rport if observed.connections else 0
    rows = exchanges(Ways(observed.recording.events["layers"], observed.inodes), port).rows
    by_flow = requests_by_flow(rows)
    explained = 0
    for connection, since_ns, until_ns in connections_in_time(observed.connections):
        flow = connection.client.flow
        mine = by_flow.get(flow, rows[:0])
        mine = mine[(mine["time_ns"] >= since_ns) & (mine["time_ns"] < until_ns)]
        explained += len(mine)
        expected = turns(connection)
        yield judge.equal(str(flow), "requests with a reply", len(expected), len(mine))
        for turn, row in zip(expected, mine, strict=False):
            yield from judge_request(judge, turn, row)
    yield judge.equal("all connections", "requests of no connection", 0, len(rows) - explained)


def requests_by_flow(rows: Rows) -> dict[Flow, Rows]:
    """Return the requests of each flow, client first, in order of time."""
    found: dict[Flow, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        client, server = (address_text(row[name].tobytes()) for name in ("caddr", "saddr"))
        found[Flow(client, int(row["cport"]), server, int(row["sport"]))].append(index)
    return {flow: rows[indices] for flow, indices in found.items()}


def judge_request(judge: Judge, turn: Turn, row: np.void) -> Iterator[Check]:
    """Yield every check of one request and its reply."""
    subject = f"{address_text(row['caddr'].tobytes())}:{row['cport']} request {int(row['number']) + 1}"
    layers = row["layers_ns"]
    unseen = [
        f"{leg} {name}"
        for leg, times in zip(LEGS, layers, strict=True)
        for name, ns in zip(LAYERS, times, strict=True)
        if ns == UNKNOWN
    ]
    yield judge.equal(subject, "layers that were not seen", "", ", ".join(unseen))
    yield judge.duration(subject, "round trip", turn.round_trip, int(row["total_ns"]))
    yield judge.equal(subject, "sum of all layers", int(row["total_ns"]), int(layers.sum() + row["elsewhere_ns"]))
    yield judge.duration(subject, "server's application", turn.application, int(layers[1][0]))
    yield judge.duration(subject, "client's application", turn.thinking, int(layers[0][0]))
    for number, (name, leg) in enumerate(zip(LEGS, (turn.request, turn.reply), strict=True)):
        yield from _judge_leg(
            judge, subject, name, leg, int(row["bytes"][number]), row["stops"][number], layers[number]
        )


def _judge_leg(
    judge: Judge, subject: str, name: str, leg: Leg, size: int, stops: np.ndarray, layers: np.ndarray
) -> Iterator[Check]:
    yield judge.equal(subject, f"{name} bytes", leg.size, size)
    yield judge.duration(subject, f"{name} written at", leg.written, int(stops[Stop.WRITTEN]))
    yield judge.duration(subject, f"{name} read at", leg.returned, int(stops[Stop.READ]))
    # All that lies between: no layer is negative, and all together are the whole.
    yield judge.duration(subject, f"{name} shortest layer", Bracket(0, leg.travel.high, 0), int(layers.min()))
    yield judge.duration(subject, f"{name} on its way", leg.travel, int(layers[1:].sum()))
    for layer, truth in (("wake_up", leg.waking), ("read", leg.reading)):
        yield judge.duration(subject, f"{name} {layer.replace('_', '-')}", truth, int(layers[LAYERS.index(layer)]))
