"""All timestamps of one request in one table: from both applications, XDP, TC, the drivers, TCP and the sockets.

All of them are on one clock. They come from the applications, and from the probes `packets` (XDP), `analyse` (system
calls and TCP) and `layers` (the points between). What does not live here: measuring; the probes do that.
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
"""Source and text of the points that only the probe `layers` observes. System calls and TCP come from `analyse`."""


class Stamp(NamedTuple):
    """A timestamped event on one host (client or server): `who` is the source of the timestamp, `what` the event."""

    time_ns: int
    host: str
    who: str
    what: str


def stamps(observed: Observed, connection: Connection) -> list[Stamp]:
    """Return all timestamps of a connection, in order of time."""
    hosts = dict(zip(observed.inodes, ("client", "server"), strict=True))
    found = [*_applications(connection), *_xdp(observed, connection, hosts)]
    found += [*_tcp(observed, connection, hosts), *_layers(observed, connection, hosts)]
    return sorted(found)


def lines(observed: Observed) -> Iterator[str]:
    """Yield the first request of the first connection as a table, from its write() to the read() of its reply."""
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
        packet = packet_text.as_dict(row)
        _, inode = observed.recording.devices[int(row["ifindex"])]
        if _belongs(Flow.of(row), connection) and inode in hosts:
            yield Stamp(
                int(row["time_ns"]), hosts[inode], "XDP", f"{packet['flags']}, {packet['payload_length']} bytes"
            )


def _tcp(observed: Observed, connection: Connection, hosts: dict[int, str]) -> Iterator[Stamp]:
    for row in steps_text.as_dicts(joined(observed.recording.events["analyse"])):
        local = str(row["local_address"]), row["local_port"] or 0
        remote = str(row["remote_address"]), row["remote_port"] or 0
        if (row["netns"] or 0) in hosts and _belongs(Flow(*local, *remote), connection):
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
