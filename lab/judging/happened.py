"""What happened in one experiment, as plain data: the truth that a tool is judged by, without the kernel that made it.

It comes from the applications' timestamps, the wire's log and the kernel's counters, and is kept with the run.
"""

from itertools import pairwise
from typing import Literal

from msgspec import Struct

from lab.arrays import Rows
from lab.judging import points
from lab.judging.points import Point
from lab.observation import Observed
from lab.tcp import Flow
from lab.timeline import Connection
from lab.truth import rtt, states
from lab.truth.states import Waits
from lab.truth.volumes import ETHERNET_HEADER
from lab.truth.wire import OnWire, WireStream

End = Literal["client", "server"]


class Wait(Struct, array_like=True, frozen=True):
    """The time (ns) that a socket spent in a state, and whether any tool can know it."""

    state: str
    low_ns: int
    high_ns: int
    best_ns: int


class Socket(Struct, frozen=True):
    """One side of a connection. `flow` has the side's own end first.

    - `sequences`: the sequences of states that it can have taken.
    - `waits`: the time in each state of the first sequence that has an end.
    """

    flow: Flow
    role: End
    pid: int
    points: dict[str, Point]
    sequences: list[list[str]] = []
    waits: list[Wait] = []


class Carried(Struct, array_like=True, frozen=True):
    """Segments of one direction that passed the observed interface: packets, bytes by layer, and retransmissions."""

    packets: int
    frame: int
    ip: int
    payload: int
    again: int


class Happening(Struct, frozen=True):
    """One connection.

    - `least_ns`: least times between two points, by `FROM>TO`.
    - `to_server`, `to_client`: what the wire carried; None if it keeps no log.
    - `requests`: the points of each request.
    - `error`: the error of connect().
    """

    client: Socket
    server: Socket | None
    least_ns: dict[str, int]
    to_server: Carried | None = None
    to_client: Carried | None = None
    requests: list[dict[str, Point]] = []
    error: str = ""


class Held(Struct, array_like=True, frozen=True):
    """Between `least` and `most` values, each between `low_ns` and `high_ns`."""

    low_ns: int
    high_ns: int
    least: int
    most: int


class Sent(Struct, frozen=True):
    """A frame that was sent on purpose, as a tool should read it. `ports` is None if it has no readable ones."""

    name: str
    protocol: str
    source: str
    destination: str
    ports: tuple[int, int] | None
    length: int


class Happened(Struct):
    """One experiment.

    - `port`: the server's; no other traffic of the machine uses it.
    - `client`, `server`: the hosts' addresses.
    - `frames`: frames sent on purpose.
    - `rtt`: the RTTs that the client's kernel can have measured to `server`; `smoothed` those of its smoothed RTT.
    - `facts`: numbers of this experiment, such as the peers of a load.
    - `clocks`: by the name of a clock, what to add to `CLOCK_MONOTONIC` to get its time (ns).
    - `disturbed`: errors of the applications and retransmissions that the experiment did not cause.
    - `log`: the applications' timestamps, for a person.
    """

    experiment: str
    port: int = 0
    client: list[str] = []
    server: list[str] = []
    connections: list[Happening] = []
    frames: list[Sent] = []
    rtt: list[Held] = []
    smoothed: list[Held] = []
    facts: dict[str, int] = {}
    clocks: dict[str, int] = {}
    disturbed: list[str] = []
    log: list[str] = []


def connections_of(observed: Observed) -> list[Happening]:
    """Return what happened to each connection of an observed experiment."""
    return [_happening(connection, wire, observed.end_ns) for connection, wire in observed.with_wire()]


def _happening(connection: Connection, on_wire: OnWire | None, end_ns: int) -> Happening:
    sides = {}
    for role, timeline in (("client", connection.client), ("server", connection.server)):
        if timeline is None:
            continue
        by_client = role == "client"
        paths = (states.client_paths if by_client else states.server_paths)(connection, end_ns)
        waits = Waits(on_wire, timeline)
        sides[role] = Socket(
            timeline.flow,
            role,  # type: ignore[arg-type]
            timeline.pid,
            points.of_socket(connection, on_wire, end_ns, by_client=by_client),
            [[it.state.name for it in path] for path in paths],
            [
                Wait(left.state.name, *waits.bracket(left, entered))
                for left, entered in pairwise(paths[0])
                if left.state not in waits.unmeasured
            ],
        )
    return Happening(
        sides["client"],
        sides.get("server"),
        points.least_ns(on_wire),
        _carried(on_wire.to_server.left, on_wire.to_server) if on_wire else None,
        _carried(on_wire.to_client.arrived, on_wire.to_client) if on_wire else None,
        points.of_requests(connection),
        connection.client.opening.error,
    )


def _carried(passed: Rows, stream: WireStream) -> Carried:
    size = int(passed["length"].sum())
    return Carried(len(passed), size, size - ETHERNET_HEADER * len(passed), int(passed["payload"].sum()), stream.again)


def rtt_of(observed: Observed) -> Held:
    """Return the bounds of all RTT samples of the clients: the smallest and the largest that the kernel can have taken."""
    sent = [one for it in observed.connections for one in rtt.sent_by_client(it, observed.end_ns)]
    least_ns = 0
    if observed.wire:
        least_ns = min(observed.wire.shortest_round_trip_ns(it.client.flow) for it in observed.connections)
    found = rtt.samples(sent, least_ns)
    return Held(found.smallest.low, found.largest.high, found.number.low, found.number.high)
