"""Cases of round-trip times (R): the peers that have a histogram, its values, and their number."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise

from lab.errors import LabError
from lab.judging.case import Case
from lab.judging.cases.connections import ordinary_ipv6, wire
from lab.judging.happened import Happened, Held
from lab.judging.stage import Stage
from lab.linux.netns import tcp_sockets
from lab.linux.tcp_counters import tcp_sent
from lab.network import segment_parser
from lab.network.conditions import Conditions
from lab.network.topology import Topology
from lab.packet import SYN
from lab.tcp import State
from lab.timeline import Connection
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse
from lab.traffic.load_generator import loopback
from lab.truth.wire import OnWire
from lab.units import MS

_UNIT_NS = 1000
_OF_HANDSHAKE, _OF_CONNECTION = 3, 7  # fewest and most segments per connection that no socket receives in ESTABLISHED
_DELAYS_NS = (550_000, 2_100_000, 17 * MS)  # one-way; the round trip is slightly above the lower edge of a bucket
_STEP_NS = (1 * MS, 33 * MS)


def two_processors(stage: Stage) -> Happened:
    """Send requests from two clients on two processors at once. One histogram has every value.

    The load runs over the namespace's loopback, so segments received equal segments sent. Those that open and close a
    connection are subtracted. A tool of single samples has one per message, and at most one per SYN, SYN-ACK and FIN.

    No filter by a port fits, so the peer's address is the run's own: two runs at a time do not add to one histogram. It is
    reserved for benchmarks (RFC 2544).
    """
    high, low = divmod(stage.ports.server, 256)
    address = f"198.18.{high}.{low}"
    requests = stage.times(20_000, 5_000)
    with loopback(address, stage.ports.server) as place, stage.loaded(place):
        places = [place, replace(place, port=place.port + 1)]
        before, begun_ns = tcp_sent(place.client), time.monotonic_ns()
        with ThreadPoolExecutor(len(places)) as at_once:
            list(at_once.map(lambda it: it.requests(requests), places))
        sent, took_ns = tcp_sent(place.client).since(before), time.monotonic_ns() - begun_ns
    messages = 2 * requests * len(places)
    return Happened(
        "two-processors", place.port, [address], [address],
        rtt=[Held(0, took_ns, messages - sent.retransmitted, messages + 4 * len(places))],
        smoothed=[
            Held(
                0, took_ns,
                sent.segments - sent.retransmitted - _OF_CONNECTION * len(places),
                sent.segments + sent.retransmitted - _OF_HANDSHAKE * len(places),
            )
        ],
    )  # fmt: skip


def buckets(stage: Stage) -> Happened:
    """Hold conversations over three round-trip delays, each slightly above a bucket's lower edge."""
    with wire() as net:
        with stage.watching(net, rport=stage.ports.server) as observed:
            for delay_ns in _DELAYS_NS:
                net.conditions(Conditions(delay_ns=delay_ns), Conditions(delay_ns=delay_ns))
                with converse(net, Conversation(exchanges=5), port=stage.ports.server) as demo:
                    pass
                observed.connections += demo.connections
        carried = list(observed.with_wire())
        happened = stage.happened("buckets", net, observed)
    happened.server = [net.server.ipv4]
    for smoothed in (False, True):
        held = [
            one
            for (connection, on_wire), delay_ns in zip(carried, _DELAYS_NS, strict=True)
            for one in _held(connection, on_wire, partial(_always, 2 * delay_ns), observed.end_ns, smoothed=smoothed)
        ]
        setattr(happened, "smoothed" if smoothed else "rtt", held)
    return happened


def a_step(stage: Stage) -> Happened:
    """Step the delay during a connection: single samples show the whole step, a smoothed RTT follows RFC 6298."""
    before, after = (Conditions(delay_ns=ns) for ns in _STEP_NS)
    with wire(before, before) as net:
        with stage.watching(net, rport=stage.ports.server) as observed:
            with converse(net, Conversation(exchanges=8, think_ns=60 * MS), port=stage.ports.server) as demo:
                _await_established(net)
                since_ns = net.conditions(after, after).latest_ns
            observed.connections += demo.connections
        ((connection, on_wire),) = observed.with_wire()
        happened = stage.happened("a-step", net, observed)
    happened.server = [net.server.ipv4]
    least = lambda ns: 2 * _STEP_NS[ns >= since_ns]  # noqa: E731 (one use)
    happened.rtt = list(_held(connection, on_wire, least, observed.end_ns, smoothed=False))
    happened.smoothed = list(_held(connection, on_wire, least, observed.end_ns, smoothed=True))
    return happened


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


def _held(
    connection: Connection, on_wire: OnWire | None, least_ns: Callable[[int], int], end_ns: int, *, smoothed: bool
) -> Iterator[Held]:
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
    if not smoothed:
        yield from (Held(low, high, 1, 1) for low, high in samples)
        yield Held(least_ns(connect.enter_ns), end_ns - connect.enter_ns, 0, 1)  # sample of the FIN
        return
    lows, highs = (list(accumulate(side, _smoothed)) for side in zip(*samples, strict=True))
    cut_ns = _UNIT_NS * len(samples)
    for low, high in zip(pairwise(lows), pairwise(highs), strict=True):
        yield Held(min(low) - cut_ns, max(high), 1, 1)
    arrived = on_wire.to_client.arrived
    further = int((~segment_parser.has(arrived, SYN)).sum()) - len(sends)
    yield Held(min(lows) - cut_ns, max(highs), 0, further)


def _smoothed(so_far_ns: int, sample_ns: int) -> int:
    """Return the next smoothed RTT (RFC 6298, 2.3). The kernel truncates each sample to microseconds."""
    return (7 * so_far_ns + sample_ns) // 8


_RTT = ("rtt", "rtt-histogram")

CASES = (
    Case("R1", _RTT, ordinary_ipv6),
    Case("R3", ("rtt-histogram",), two_processors),
    Case("R4", ("rtt-histogram",), buckets),
    Case("R5", _RTT, a_step),
)
