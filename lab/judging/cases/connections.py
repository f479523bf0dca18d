"""Cases of whole connections: ordinary ones (N), states (S), durations and ends (D), failed connects (C)."""

from collections.abc import Iterator
from contextlib import contextmanager

from lab.judging.case import Case
from lab.judging.finding import Finding, Verdict, absent, value
from lab.judging.happened import Happened, Happening
from lab.judging.quantity import Quantity, Told
from lab.judging.stage import Stage, conversed
from lab.network.conditions import Conditions
from lab.network.relay import Relay
from lab.network.topology import Topology, topology
from lab.traffic.demo.conversation import Conversation
from lab.traffic.load_generator import loopback
from lab.units import MS

DELAY = Conditions(delay_ns=20 * MS)
MANY = 12_000
"""Peers, flows or connections: more than the 10,240 entries of a BCC map with the default size."""

_TIMED = ("duration", "connect", "accept", "requests", "layers")
_ONLY_PORT = 40_001


@contextmanager
def wire(to_server: Conditions = DELAY, to_client: Conditions = DELAY) -> Iterator[Topology]:
    """Build a network whose wire logs every frame."""
    with topology(Relay()) as net:
        net.conditions(to_server, to_client)
        yield net


def ordinary(stage: Stage, version: int = 4) -> Happened:
    """Hold one connection with three requests over 20 ms each way.

    Its ports are the byte swap of each other, and its server closes late.
    """
    conversation = Conversation(exchanges=3, before_reply_ns=10 * MS, hold_ns=5 * MS, linger_ns=60 * MS)
    with wire() as net:
        observed = stage.converse(net, conversation, source_port=stage.ports.client, version=version)
        happened = stage.happened(f"ordinary-{version}", net, observed)
    happened.server = happened.server[version == 6 :][:1]
    return happened


def ordinary_ipv6(stage: Stage) -> Happened:
    """Do as `ordinary`, over IPv6."""
    return ordinary(stage, 6)


def by_port(stage: Stage) -> Happened:
    """Open a connection whose local port connect() chooses after SYN_SENT. The tools filter by that port."""
    with wire() as net:
        net.client.sysctl("ipv4/ip_local_port_range", f"{_ONLY_PORT} {_ONLY_PORT}")
        observed = stage.converse(net, Conversation(), lport=_ONLY_PORT)
        happened = stage.happened("by-port", net, observed)
    # The server's socket has another local port.
    happened.connections = [Happening(it.client, None, it.least_ns) for it in happened.connections]
    return happened


def churn(stage: Stage) -> Happened:
    """Open thousands of short connections, for which the kernel reuses the addresses of sockets."""
    with loopback(port=stage.ports.server) as place:
        with stage.loaded(place):
            load = place.connections(stage.times(5000, 1000))
        return Happened(
            "churn", place.port, [place.address], [place.address], facts={"longest_ns": int(load.each_ns.max())}
        )


def no_longer_than(quantity: Quantity, told: Told, happened: Happened) -> Iterator[Finding]:
    """Yield the finding of the longest time of a state: no socket was in one longer than the longest connection lasted."""
    mine = [
        row
        for row in told.rows
        if happened.port in (row.get("lport"), row.get("rport")) and row.get("newstate") != "LISTEN"
    ]
    mine = [row for row in mine if row.get("oldstate") != "LISTEN" or row.get("newstate") == "SYN_RECV"]
    longest_ns = happened.facts["longest_ns"]
    interval = (0, longest_ns, longest_ns)
    known = "the load's own time of each connection"
    if not mine:
        yield absent("longest time in a state", "any socket", interval, lost=told.lost, known_by=known)
        return
    worst = max(mine, key=lambda row: row.get("value") or 0)
    yield value(
        "longest time in a state", f"{len(mine)} rows", interval, worst.get("value") or 0,
        resolution=quantity.resolution_ns, known_by=known, rows=[worst.raw],
    )  # fmt: skip


def lost_syn(stage: Stage) -> Happened:
    """Lose the first SYN: connect() takes a second longer."""
    with wire(Conditions(delay_ns=DELAY.delay_ns, drop=(1,))) as net:
        return stage.happened("lost-syn", net, stage.converse(net, Conversation()), again=1)


def reset_and_refused(stage: Stage) -> Happened:
    """Open a connection that its client resets, and one that is refused."""
    with wire() as net:
        with stage.watching(net) as observed:
            observed.connections += conversed(net, Conversation(how="rst", hold_ns=5 * MS), port=stage.ports.server)
            refused = conversed(
                net, Conversation(), port=stage.ports.server, source_port=stage.ports.client, serve=False
            )
            observed.connections += refused
        happened = stage.happened("reset-and-refused", net, observed, errors=2)
    happened.facts |= {"drops": 0, "most_drops": 2}
    return happened


def half_close(stage: Stage) -> Happened:
    """End the client's direction by shutdown(). The server closes 60 ms later."""
    with wire() as net:
        observed = stage.converse(net, Conversation(how="shutdown", hold_ns=5 * MS, linger_ns=60 * MS))
        return stage.happened("half-close", net, observed)


def many(stage: Stage) -> Happened:
    """Hold thousands of connections open at the same time, each to an address of its own."""
    with loopback(port=stage.ports.server) as place:
        with stage.loaded(place):
            place.requests(2 * MANY, MANY, MANY)
        return Happened("many", place.port, [place.address], [place.address], facts={"peers": MANY})


def each_or_lost(_: Quantity, told: Told, happened: Happened) -> Iterator[Finding]:
    """Yield the finding of the number of connections, peers or flows: each is told, or the tool says how many it lost."""
    peers = {
        str(peer)
        for row in told.rows
        for peer in (row.get("raddr"), row.get("destination"))
        if str(peer or "").startswith("127.") and row.get("count") != 0 and row.get("number") != 0
        if row.get("rport") in (None, happened.port)
    }
    wanted = happened.facts["peers"]
    counted = len(peers - set(happened.client)) + 1
    known = "the load opened a connection to each address"
    if counted >= wanted:
        yield Finding("peers", "the load", Verdict.RIGHT, "", wanted, wanted, wanted, known_by=known)
    elif counted + told.lost >= wanted:
        yield Finding("peers", "the load", Verdict.LOST, "", wanted, wanted, counted, wanted - counted, known_by=known)
    else:
        yield Finding(
            "peers", "the load", Verdict.MISSING, "", wanted, wanted, counted, wanted - counted, known_by=known
        )


_ALL = (*_TIMED, "states", "rtt", "rtt-histogram", "flows", "packets", "retransmissions", "events")

CASES = (
    Case("N1", _ALL, ordinary),
    Case("N6", _ALL, ordinary_ipv6),
    Case("S1", ("states",), ordinary, ("time in SYN_RECV",)),
    Case("S2", ("states",), ordinary, ("time in FIN_WAIT2", "sequence of states (client)")),
    Case("S3", ("states",), ordinary, ("time in the state before",)),
    Case("S4", ("states",), by_port, filtered=True),
    Case("S5", ("states",), churn, compare=no_longer_than),
    Case("S6", ("states",), ordinary, ("ports",)),
    Case("S7", ("states",), ordinary, ("owner",)),
    Case("D1", (*_TIMED[:2], "retransmissions"), lost_syn),
    Case("D2", ("duration", "connect", "events"), reset_and_refused),
    Case("D3", ("duration", "states"), half_close),
    Case("F4", ("duration", "flows"), many, compare=each_or_lost),
    Case("R2", ("rtt-histogram",), many, compare=each_or_lost),
)
