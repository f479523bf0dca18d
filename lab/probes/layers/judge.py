"""Judge the probe `layers`: compare each request with the timestamps of the two applications and of the wire."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from lab.arrays import UNKNOWN, Rows
from lab.network.segment_parser import has
from lab.observation import Observed
from lab.packet import SYN
from lab.probes.layers.requests import LEGS, requests_of
from lab.probes.layers.stages import LAYERS, Stop
from lab.tcp import Flow, address_text
from lab.truth.directions import connections_in_time
from lab.truth.requests import Exchange, Leg, exchanges, with_byte
from lab.truth.taps import Seen
from lab.truth.wire import WireStream
from lab.verdict import Bracket, Check, Judge

_UNSEEN_IN_SYN = "request tcp, request wake_up, request queue, request read"
"""Layers of data in the SYN (RFC 7413), which the kernel does not announce: tcp_fastopen_add_skb()."""


def checks(observed: Observed, scenario: str) -> Iterator[Check]:
    """Yield every check of the requests of the observed connections."""
    judge = observed.judge(scenario, "layers")
    rows = requests_of(observed)
    by_flow = requests_by_flow(rows)
    matched = 0
    for connection, since_ns, until_ns in connections_in_time(observed.connections):
        flow = connection.client.flow
        mine = by_flow.get(flow, rows[:0])
        mine = mine[(mine["time_ns"] >= since_ns) & (mine["time_ns"] < until_ns)]
        matched += len(mine)
        seen = observed.seen(connection)
        expected = [exchange.seen(*seen) for exchange in exchanges(connection)]
        yield judge.equal(str(flow), "requests with a reply", len(expected), len(mine))
        streams, tapped = [], []
        if observed.wire:
            client, server = (observed.seen_at(connection, ifindex) for ifindex in observed.ifindexes)
            tapped = [(client, server), (server, client)]
            streams = [observed.wire.stream(it, since_ns=since_ns, until_ns=until_ns) for it in (flow, flow.reversed())]
        for exchange, row in zip(expected, mine, strict=False):
            yield from judge_request(judge, exchange, row)
            for number, stream in enumerate(streams):
                yield from _judge_on_wire(judge, number, exchange, row, stream, tapped[number])
    yield judge.equal("all connections", "requests of no connection", 0, len(rows) - matched)


def requests_by_flow(rows: Rows) -> dict[Flow, Rows]:
    """Return the requests of each flow (client first), in order of time."""
    found: dict[Flow, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        found[Flow.of(row, "c", "s")].append(index)
    return {flow: rows[indices] for flow, indices in found.items()}


def judge_request(judge: Judge, exchange: Exchange, row: np.void) -> Iterator[Check]:
    """Yield every check of one request and its reply against its exchange."""
    subject = _subject(row)
    layers = row["layers_ns"]
    unseen = [
        f"{leg} {name}"
        for leg, times in zip(LEGS, layers, strict=True)
        for name, ns in zip(LAYERS, times, strict=True)
        if ns == UNKNOWN
    ]
    possible = ["", _UNSEEN_IN_SYN] if exchange.in_syn else [""]
    yield judge.one_of(subject, "layers that were not seen", possible, ", ".join(unseen))
    yield judge.duration(subject, "round trip", exchange.round_trip, int(row["total_ns"]))
    seen_ns = int(layers[layers != UNKNOWN].sum() + row["elsewhere_ns"])
    yield judge.equal(subject, "sum of all layers", int(row["total_ns"]), seen_ns)
    yield judge.duration(subject, "server's application", exchange.application, int(layers[1][0]))
    yield judge.duration(subject, "client's application", exchange.thinking, int(layers[0][0]))
    for number, (name, leg) in enumerate(zip(LEGS, (exchange.request, exchange.reply), strict=True)):
        yield from _judge_leg(
            judge, subject, name, leg, int(row["bytes"][number]), row["stops"][number], layers[number]
        )


def _subject(row: np.void) -> str:
    return f"{address_text(row['caddr'].tobytes())}:{row['cport']} request {int(row['number']) + 1}"


def _judge_leg(
    judge: Judge, subject: str, name: str, leg: Leg, size: int, stops: np.ndarray, layers: np.ndarray
) -> Iterator[Check]:
    yield judge.equal(subject, f"{name} bytes", leg.size, size)
    yield judge.duration(subject, f"{name} written at", leg.written, int(stops[Stop.WRITTEN]))
    yield judge.duration(subject, f"{name} read at", leg.returned, int(stops[Stop.READ]))
    # No layer is negative, and no layer is longer than the whole path.
    seen = layers != UNKNOWN
    yield judge.duration(subject, f"{name} shortest layer", Bracket.early(0, leg.travel.high), int(layers[seen].min()))
    if not seen.all():
        return
    yield judge.duration(subject, f"{name} on its way", leg.travel, int(layers[1:].sum()))
    for layer, truth in (("wake_up", leg.waking), ("read", leg.reading)):
        yield judge.duration(subject, f"{name} {layer.replace('_', '-')}", truth, int(layers[LAYERS.index(layer)]))


def _judge_on_wire(
    judge: Judge,
    number: int,
    exchange: Exchange,
    row: np.void,
    stream: WireStream,
    tapped: tuple[Seen | None, Seen | None],
) -> Iterator[Check]:
    """Yield the checks of the last byte against the log of the wire: its transmissions, and the layers around the wire.

    The log does not show which of several transmissions reached TCP first. It is one of those that arrived, so
    brackets cover all of them. The taps at the sender's and at the receiver's interface stamp a frame before
    net_dev_start_xmit (xmit_one()) and after netif_receive_skb (__netif_receive_skb_core()).
    """
    subject, name, leg = _subject(row), LEGS[number], (exchange.request, exchange.reply)[number]
    isn = stream.left["seq"][has(stream.left, SYN)][:1]
    if not len(isn):
        return
    left, arrived = (with_byte(some, leg.end - 1, int(isn[0])) for some in (stream.left, stream.arrived))
    yield judge.equal(subject, f"{name} times sent", len(left), int(row["sent"][number]))
    if not len(left) or not len(arrived):
        return
    stops, layers = row["stops"][number], dict(zip(LAYERS, row["layers_ns"][number].tolist(), strict=True))
    sent_ns, came_ns = int(left["arrived_high_ns"].min()), int(arrived["sent_low_ns"].min())
    given_ns, taken_ns = leg.last.enter_ns, leg.returned.high
    sender, receiver = tapped
    if sender and len(out := with_byte(sender.left, leg.end - 1)):
        given_ns, sent_ns = max(given_ns, int(out["low_ns"].min())), min(sent_ns, int(out["high_ns"].min()))
    if receiver and len(into := with_byte(receiver.came, leg.end - 1)) and not into["early"].any():
        taken_ns = min(taken_ns, int(into["high_ns"].max()))
    yield judge.duration(
        subject, f"{name} write", Bracket.early(0, max(0, sent_ns - leg.last.enter_ns)), layers["write"]
    )
    held_ns = max(0, int((arrived["sent_low_ns"] - arrived["arrived_high_ns"]).min()))
    longest_ns = taken_ns - given_ns
    yield judge.duration(subject, f"{name} wire", Bracket.early(held_ns, longest_ns), layers["wire"])
    given = Bracket(given_ns, int(arrived["arrived_high_ns"].max()), sent_ns)
    yield judge.duration(subject, f"{name} given to the driver at", given, int(stops[Stop.DEVICE_OUT]))
    taken = Bracket.early(came_ns, taken_ns)
    yield judge.duration(subject, f"{name} taken from the driver at", taken, int(stops[Stop.DEVICE_IN]))
