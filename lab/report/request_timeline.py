"""All timestamps of a connection in one table: from both applications, the interfaces, the wire, and the probes.

All of them are on one clock. The wire has a log of its own, and the taps see the interfaces. Of the probes, `packets` (XDP),
`analyse` (system calls and TCP) and `layers` (the points between) have texts of their own here; the events of the others are
described by their fields. What does not live here: measuring; the probes do that.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Annotated, NamedTuple

import msgspec
import numpy as np

from lab.arrays import Rows
from lab.network.frame_log import Fate, Mark
from lab.observation import Observed
from lab.packet import flags_text
from lab.probes.analyse import text as steps_text
from lab.probes.analyse.measure import joined
from lab.probes.layers.stages import At
from lab.probes.packets import text as packet_text
from lab.tcp import Flow, State
from lab.timeline import Connection
from lab.truth.requests import exchanges

WIRE = "wire"

_Hosts = Mapping[int, str]
"""Client or server, by the inode of its network namespace."""

_LAYERS = {
    At.TC_OUT: ("TC", "egress"),
    At.DEVICE_OUT: ("driver", "given to the driver"),
    At.DEVICE_IN: ("driver", "taken from the driver"),
    At.TC_IN: ("TC", "ingress"),
    At.READY: ("socket", "data ready"),
}
"""Source and text of the points that only the probe `layers` observes. System calls and TCP come from `analyse`."""

_FIELDS: Mapping[str, Callable[[int], str]] = {
    "ingress": lambda value: "ingress" if value else "egress",
    "oldstate": lambda value: f"from {_state(value)}",
    "newstate": lambda value: f"to {_state(value)}",
    "state": lambda value: f"in {_state(value)}",
    "flags": lambda value: flags_text(value) or "no flags",
    "payload_length": "{} bytes".format,
    "length": "{} bytes".format,
    "seq": "seq {}".format,
    "tgid": "process {}".format,
}
"""Texts of the fields that an event of any probe may have."""


class Stamp(NamedTuple):
    """A timestamped event: `host` is client, server or wire, `who` the source of the timestamp, `what` the event."""

    time_ns: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    host: str
    who: str
    what: str


def stamps(observed: Observed, connection: Connection, *probes: str) -> list[Stamp]:
    """Return all timestamps of a connection, in order of time; of the probes' only those of `probes`, if any are named."""
    hosts = dict(zip(observed.inodes, ("client", "server"), strict=True))
    found = [*_applications(connection), *_wire(observed, connection), *_interfaces(observed, connection)]
    for probe, events in observed.recording.events.items():
        if probe in probes or not probes:
            found += _SPECIAL.get(probe, _any)(observed, connection, hosts, probe, events)
    return sorted(found)


def lines(observed: Observed) -> Iterator[str]:
    """Yield the first request of the first connection as a table, from its write() to the read() of its reply."""
    connection = observed.connections[0]
    exchange = exchanges(connection)[0]
    begin_ns, end_ns = exchange.request.first.enter_ns, exchange.reply.read.exit_ns
    yield f"{'us':>10}  {'host':<6}  {'who':<15}  what"
    for stamp in stamps(observed, connection):
        if begin_ns <= stamp.time_ns <= end_ns:
            yield f"{(stamp.time_ns - begin_ns) / 1000:>10.1f}  {stamp.host:<6}  {stamp.who:<15}  {stamp.what}"


def _applications(connection: Connection) -> Iterator[Stamp]:
    for timeline in (connection.client, connection.server):
        if timeline is None:
            continue
        for call in timeline.calls:
            result = f", {call.result} bytes" if call.name in ("send", "recv") and not call.error else ""
            yield Stamp(call.enter_ns, timeline.role, "application", f"{call.name}() called")
            over = f"{call.name}() over{result}{call.error and f', {call.error}'}"
            yield Stamp(call.exit_ns, timeline.role, "application", over)


def _wire(observed: Observed, connection: Connection) -> Iterator[Stamp]:
    """Yield when each frame came to the wire, and when it left, or what became of it."""
    on_wire = next((wire for one, wire in observed.with_wire() if one is connection), None)
    if on_wire is None:
        return
    for receiver, stream in zip(("server", "client"), on_wire.streams, strict=True):
        for row in stream.carried:
            frame = f"{_segment(row)}, to the {receiver}"
            marks = "".join(f", {mark.name.lower()}" for mark in Mark(int(row["marks"])) if mark.name)
            if row["fate"] == Fate.FORWARDED:
                yield Stamp(int(row["arrived_low_ns"]), WIRE, "frame", f"{frame}: comes{marks}")
                yield Stamp(int(row["sent_low_ns"]), WIRE, "frame", f"{frame}: leaves{marks}")
            else:
                fate = Fate(row["fate"]).name.lower()
                yield Stamp(int(row["arrived_low_ns"]), WIRE, "frame", f"{frame}: {fate}{marks}")


def _interfaces(observed: Observed, connection: Connection) -> Iterator[Stamp]:
    for host, seen in zip(("client", "server"), observed.seen(connection), strict=True):
        if seen is None:
            continue
        for way, rows in (("sent", seen.left), ("received", seen.came)):
            for row in rows:
                yield Stamp(int(row["low_ns"]), host, "interface", f"{way} {_segment(row)}")


def _segment(row: np.void) -> str:
    size = f", {row['payload']} bytes" if row["payload"] else ""
    return f"{flags_text(int(row['flags']))}{size}, seq {row['seq']}"


def _packets(observed: Observed, connection: Connection, hosts: _Hosts, _: str, events: Rows) -> Iterator[Stamp]:
    rows = _of(events, connection)
    for row, packet in zip(rows, packet_text.as_dicts(rows), strict=True):
        if (host := _host(observed, row, hosts)) and _belongs(Flow.of(row), connection):
            yield Stamp(int(row["time_ns"]), host, "XDP", f"{packet['flags']}, {packet['payload_length']} bytes")


def _analyse(_: Observed, connection: Connection, hosts: _Hosts, __: str, events: Rows) -> Iterator[Stamp]:
    for row in steps_text.as_dicts(joined(events)):
        local = str(row["local_address"]), row["local_port"] or 0
        remote = str(row["remote_address"]), row["remote_port"] or 0
        if (row["netns"] or 0) in hosts and _belongs(Flow(*local, *remote), connection):
            what = f"{row['func']}: {steps_text.description(row)}"
            who = "system call" if row["returns"] is not None else "TCP"
            yield Stamp(_number(row["time_ns"]), hosts[_number(row["netns"])], who, what)


def _layers(observed: Observed, connection: Connection, hosts: _Hosts, _: str, events: Rows) -> Iterator[Stamp]:
    for row in _of(events, connection):
        host = _host(observed, row, hosts)
        if host and _belongs(Flow.of(row), connection) and int(row["at"]) in _LAYERS:
            who, what = _LAYERS[At(row["at"])]
            segment = "" if row["at"] == At.READY else f", {flags_text(int(row['flags']))}, {row['length']} bytes"
            yield Stamp(int(row["time_ns"]), host, who, what + segment)


def _any(observed: Observed, connection: Connection, hosts: _Hosts, probe: str, events: Rows) -> Iterator[Stamp]:
    for row in _of(events, connection):
        if (host := _host(observed, row, hosts)) and _belongs(_flow(row), connection):
            fields = (text(int(row[name])) for name, text in _FIELDS.items() if name in (row.dtype.names or ()))
            yield Stamp(int(row["time_ns"]), host, f"lab {probe}", ", ".join(fields) or "an event")


_SPECIAL = {"packets": _packets, "analyse": _analyse, "layers": _layers}
"""The probes whose events have texts of their own."""


def _of(events: Rows, connection: Connection) -> Rows:
    """Return the events with the client's port: there are few of them."""
    names = events.dtype.names or ()
    ports = next((both for both in (("sport", "dport"), ("lport", "rport")) if both[0] in names), ())
    return (
        events[np.any([events[name] == connection.client.flow.lport for name in ports], axis=0)]
        if ports
        else events[:0]
    )


def _flow(row: np.void) -> Flow:
    return Flow.of(row) if "sport" in (row.dtype.names or ()) else Flow.of(row, "l", "r")


def _host(observed: Observed, row: np.void, hosts: _Hosts) -> str | None:
    """Return the host of an event, by its namespace or by its interface; None if it is another host's."""
    names = row.dtype.names or ()
    if "netns" in names:
        return hosts.get(int(row["netns"]))
    device = observed.recording.devices.get(int(row["ifindex"])) if "ifindex" in names else None
    return hosts.get(device[1]) if device else None


def _belongs(flow: Flow, connection: Connection) -> bool:
    return connection.client.flow in (flow, flow.reversed())


def _state(number: int) -> str:
    with suppress(ValueError):
        return State(number).name
    return f"state {number}"


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
