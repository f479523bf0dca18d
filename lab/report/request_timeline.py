"""One request in every detail: what both applications, XDP, TC, the drivers, TCP and the sockets have to say of it, in one order.

Everything is on one clock, so that stamps of the applications, of the probe `packets` (XDP), of `analyse` (TCP's functions) and of
`layers` (everything between) can stand in one table.
"""

from collections.abc import Iterator
from typing import NamedTuple

from lab.observation import Observed
from lab.packet import flags_text
from lab.probes.analyse import text as steps_text
from lab.probes.analyse.measure import joined
from lab.probes.layers.stages import At
from lab.probes.packets import text as packet_text
from lab.tcp import Flow
from lab.timeline import Connection
from lab.truth.requests import exchanges

_LAYERS = {
    At.TC_OUT: ("TC", "egress"),
    At.DEVICE_OUT: ("driver", "given to the driver"),
    At.DEVICE_IN: ("driver", "taken from the driver"),
    At.TC_IN: ("TC", "ingress"),
    At.READY: ("socket", "data ready"),
}
"""What only the probe `layers` tells; the system calls and TCP's own doings are told by `analyse`."""


class Stamp(NamedTuple):
    """Something that happened at a time, on one of the hosts: who says so, and what it was."""

    time_ns: int
    host: str
    who: str
    what: str


def stamps(observed: Observed, connection: Connection) -> list[Stamp]:
    """Return all that is known of a connection, in order of time."""
    hosts = dict(zip(observed.inodes, ("client", "server"), strict=True))
    found = [*_applications(connection), *_xdp(observed, connection, hosts)]
    found += [*_tcp(observed, connection, hosts), *_layers(observed, connection, hosts)]
    return sorted(found)


def lines(observed: Observed) -> Iterator[str]:
    """Yield the first request of the first connection as a table, from where it was written to where its reply was read."""
    connection = observed.connections[0]
    exchange = exchanges(connection)[0]
    begin_ns, end_ns = exchange.request.first.enter_ns, exchange.reply.read.exit_ns
    yield f"{'us':>10}  {'host':<6}  {'who':<11}  what"
    for stamp in stamps(observed, connection):
        if begin_ns <= stamp.time_ns <= end_ns:
            yield f"{(stamp.time_ns - begin_ns) / 1000:>10.1f}  {stamp.host:<6}  {stamp.who:<11}  {stamp.what}"


def _applications(connection: Connection) -> Iterator[Stamp]:
    for timeline in (connection.client, connection.server):
        if timeline is None:
            continue
        for call in timeline.calls:
            result = f", {call.result} bytes" if call.name in ("send", "recv") and not call.error else ""
            yield Stamp(call.enter_ns, timeline.role, "application", f"{call.name}() called")
            yield Stamp(call.exit_ns, timeline.role, "application", f"{call.name}() over{result}")


def _xdp(observed: Observed, connection: Connection, hosts: dict[int, str]) -> Iterator[Stamp]:
    for row in observed.recording.events["packets"]:
        told = packet_text.as_dict(row)
        _, inode = observed.recording.devices[int(row["ifindex"])]
        if _belongs(Flow.of(row), connection) and inode in hosts:
            yield Stamp(int(row["time_ns"]), hosts[inode], "XDP", f"{told['flags']}, {told['payload_length']} bytes")


def _tcp(observed: Observed, connection: Connection, hosts: dict[int, str]) -> Iterator[Stamp]:
    for row in steps_text.as_dicts(joined(observed.recording.events["analyse"])):
        flow = Flow(str(row["saddr"]), _number(row["sport"]), str(row["daddr"]), _number(row["dport"]))
        if _belongs(flow, connection) and _number(row["netns"]) in hosts:
            what = f"{row['func']}: {steps_text.description(row)}"
            who = "system call" if row["returns"] is not None else "TCP"
            yield Stamp(_number(row["time_ns"]), hosts[_number(row["netns"])], who, what)


def _layers(observed: Observed, connection: Connection, hosts: dict[int, str]) -> Iterator[Stamp]:
    for row in observed.recording.events["layers"]:
        if _belongs(Flow.of(row), connection) and int(row["netns"]) in hosts and int(row["at"]) in _LAYERS:
            who, what = _LAYERS[At(row["at"])]
            segment = "" if row["at"] == At.READY else f", {flags_text(int(row['flags']))}, {row['length']} bytes"
            yield Stamp(int(row["time_ns"]), hosts[int(row["netns"])], who, what + segment)


def _belongs(flow: Flow, connection: Connection) -> bool:
    return connection.client.flow in (flow, flow.reversed())


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
