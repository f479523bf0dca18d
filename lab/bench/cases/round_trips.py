"""Cases of round-trip times (R): the peers that have a histogram, its values, and their number.

The truth gives numbers of values, each inside an interval (`Held`). A histogram is consistent with it if, at every edge
of a bucket, the numbers of values below and above the edge are possible.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise
from typing import NamedTuple

from lab.bench.answers import watch_conversation, watching
from lab.bench.cases import DPORT, MANY, Verdicts, lost, wire, with_many
from lab.bench.context import Bench, runnable
from lab.bench.load_generator import loopback
from lab.bench.tools import RTT, RttRow, Scope, Tool, running
from lab.errors import LabError
from lab.linux.netns import tcp_sockets
from lab.linux.tcp_counters import tcp_sent
from lab.log2_histogram import SLOTS, bounds, slot_of
from lab.network import segment_parser
from lab.network.conditions import FOREVER_NS, Conditions
from lab.network.segment_parser import Flag
from lab.network.topology import Topology
from lab.tcp import State
from lab.timeline import Connection
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse
from lab.truth.wire import OnWire
from lab.units import MS

_OWN = "198.18.77.1"  # reserved for benchmarks (RFC 2544), so no other traffic has this peer
_PORT = 20_995  # no other traffic uses it
_UNIT_NS = 1000
_OF_HANDSHAKE, _OF_CONNECTION = 3, 7  # fewest and most segments per connection that no socket receives in ESTABLISHED
_DELAYS_NS = (550_000, 2_100_000, 17 * MS)  # one-way; the round trip is slightly above the lower edge of a bucket
_STEP_NS = (1 * MS, 33 * MS)


class Held(NamedTuple):
    """Between `least` and `most` values, each between `low_ns` and `high_ns`."""

    low_ns: int
    high_ns: int
    least: int
    most: int


def consistent(row: RttRow, held: Sequence[Held]) -> bool:
    """Return true if the truth allows the histogram, and its number and mean agree with its own buckets."""
    counts = [row.slots.get(slot, 0) for slot in range(SLOTS)]
    lows, highs = zip(*(bounds(slot) for slot in range(SLOTS)), strict=True)
    low_ns, high_ns = (
        sum(count * us for count, us in zip(counts, edges, strict=True)) * _UNIT_NS / max(1, row.number)
        for edges in (lows, highs)
    )
    slots = [(_slot(it.low_ns - _UNIT_NS), _slot(it.high_ns), it) for it in held]
    return (
        row.number == sum(counts)
        and low_ns - _UNIT_NS <= row.mean_ns <= high_ns + _UNIT_NS
        and all(
            sum(it.least for first, _, it in slots if first >= edge)
            <= sum(counts[edge:])
            <= sum(it.most for _, last, it in slots if last >= edge)
            and sum(it.least for _, last, it in slots if last < edge)
            <= sum(counts[:edge])
            <= sum(it.most for first, _, it in slots if first < edge)
            for edge in range(SLOTS + 1)
        )
    )


def _slot(ns: int) -> int:
    return min(SLOTS - 1, slot_of(max(0, ns) // _UNIT_NS))


def ipv6_peers(_: Bench) -> Verdicts:
    """R1: client and server are IPv6 peers of each other. Each has a histogram."""
    with wire() as net:
        experiment = watch_conversation(net, runnable(RTT), Conversation(exchanges=5), version=6, port=DPORT)
        peers = {net.client.ipv6, net.server.ipv6}
    for tool in runnable(RTT):
        yield "R1", tool, peers <= {row.key for row in experiment.rows[tool] if row.number}


def many_peers(_: Bench) -> Verdicts:
    """R2: thousands of peers. The tool reports each, or the number of lost ones."""
    for tool in runnable(RTT):
        _address, rows, missing = with_many(tool, 2 * MANY)
        reported = sum(row.key.startswith("127.") and row.number > 0 for row in rows)
        yield "R2", tool, reported + missing >= MANY


def two_processors(bench: Bench) -> Verdicts:
    """R3: two clients on two processors send requests at once. One histogram has every value, and the right mean.

    - The load runs over the namespace's loopback, so segments received equal segments sent. Those that open and close a
      connection are subtracted.
    - A tool of single samples has one per message, and at most one per SYN, SYN-ACK and FIN.
    - Values that the tool reports as lost are not missing.
    """
    requests = bench.times(20_000, 5_000)
    for tool in runnable(RTT):
        with loopback(_OWN) as place, running(tool, Scope(place.client)) as run:
            places = [place, replace(place, port=place.port + 1)]
            before = tcp_sent(place.client)
            with ThreadPoolExecutor(len(places)) as at_once:
                list(at_once.map(lambda it: it.requests(requests), places))
            sent = tcp_sent(place.client).since(before)
            run.await_quiet()
            run.end(60.0)
            mine = [row for row in run.rows() if row.key == _OWN]
            if tool.samples:
                messages = 2 * requests * len(places)
                least, most = messages - sent.retransmitted, messages + 4 * len(places)
            else:
                most = sent.segments + sent.retransmitted - _OF_HANDSHAKE * len(places)
                least = sent.segments - sent.retransmitted - _OF_CONNECTION * len(places)
            held = [Held(0, FOREVER_NS, least - lost(run.stderr), most)]
            yield "R3", tool, len(mine) == 1 and consistent(mine[0], held)


def buckets(_: Bench) -> Verdicts:
    """R4: round-trip delays slightly above a bucket's lower edge. Each value is in a bucket that the truth allows."""
    with wire() as net:
        with watching(net, runnable(RTT), rport=_PORT) as experiment:
            for delay_ns in _DELAYS_NS:
                net.conditions(Conditions(delay_ns=delay_ns), Conditions(delay_ns=delay_ns))
                with converse(net, Conversation(exchanges=5), port=_PORT) as demo:
                    pass
                experiment.observed.connections += demo.connections
        carried = list(experiment.observed.with_wire())
        for tool in runnable(RTT):
            held = [
                one
                for (connection, on_wire), delay_ns in zip(carried, _DELAYS_NS, strict=True)
                for one in _held(tool, connection, on_wire, partial(_always, 2 * delay_ns))
            ]
            yield "R4", tool, _correct(experiment.rows[tool], net.server.ipv4, held)


def a_step(_: Bench) -> Verdicts:
    """R5: the delay steps during a connection. Single samples show the whole step, a smoothed RTT follows RFC 6298."""
    before, after = (Conditions(delay_ns=ns) for ns in _STEP_NS)
    with wire(before, before) as net:
        with watching(net, runnable(RTT), rport=_PORT) as experiment:
            with converse(net, Conversation(exchanges=8, think_ns=60 * MS), port=_PORT) as demo:
                _await_established(net)
                since_ns = net.conditions(after, after).latest_ns
            experiment.observed.connections += demo.connections
        ((connection, on_wire),) = experiment.observed.with_wire()
        for tool in runnable(RTT):
            held = list(_held(tool, connection, on_wire, lambda ns: 2 * _STEP_NS[ns >= since_ns]))
            yield "R5", tool, _correct(experiment.rows[tool], net.server.ipv4, held)


def _always(ns: int, _: int) -> int:
    return ns


def _await_established(net: Topology, limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not any(socket.state == State.ESTABLISHED for socket in tcp_sockets(net.client.name)):
        if time.monotonic() > deadline:
            raise LabError(
                f"the client has not connected within {limit_s:g} s: try again on a machine that is less busy"
            )
        time.sleep(0.001)


def _correct(rows: Sequence[RttRow], key: str, held: Sequence[Held]) -> bool:
    mine = [row for row in rows if row.key == key]
    return len(mine) == 1 and consistent(mine[0], held)


def _held(tool: Tool, connection: Connection, on_wire: OnWire | None, least_ns: Callable[[int], int]) -> Iterator[Held]:
    """Yield the values that the histogram of the client's socket can have.

    `least_ns` maps a time of sending to the shortest round trip over the wire. The kernel takes one sample per message;
    the reply acknowledges it at the latest. tcp_probe reports the smoothed RTT with each segment that a socket receives
    in ESTABLISHED, including the samples up to or before that segment.
    """
    if on_wire is None:
        raise TypeError("the relay keeps a log")
    connect = connection.client.opening
    sends, recvs = ([it for it in connection.client.calls if it.name == name] for name in ("send", "recv"))
    samples = [(least_ns(connect.enter_ns), connect.exit_ns - connect.enter_ns)]
    samples += [
        (least_ns(send.enter_ns), recv.exit_ns - send.enter_ns) for send, recv in zip(sends, recvs, strict=False)
    ]
    if tool.samples:
        yield from (Held(low, high, 1, 1) for low, high in samples)
        yield Held(least_ns(connect.enter_ns), FOREVER_NS, 0, 1)  # sample of the FIN
        return
    lows, highs = (list(accumulate(side, _smoothed)) for side in zip(*samples, strict=True))
    cut_ns = _UNIT_NS * len(samples)
    for low, high in zip(pairwise(lows), pairwise(highs), strict=True):
        yield Held(min(low) - cut_ns, max(high), 1, 1)
    arrived = on_wire.to_client.arrived
    further = int((~segment_parser.has(arrived, Flag.SYN)).sum()) - len(sends)
    yield Held(min(lows) - cut_ns, max(highs), 0, further)


def _smoothed(so_far_ns: int, sample_ns: int) -> int:
    """Return the next smoothed RTT (RFC 6298, 2.3). The kernel truncates each sample to microseconds."""
    return (7 * so_far_ns + sample_ns) // 8


CASES = (ipv6_peers, many_peers, two_processors, buckets, a_step)
