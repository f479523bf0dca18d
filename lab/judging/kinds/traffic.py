"""Traffic: packets and bytes by flow, single packets, retransmissions, drops, and events of connections."""

import re
from collections.abc import Iterator, Sequence

from lab.judging.finding import Finding, Verdict, absent, matched, value
from lab.judging.happened import Carried, Happened, Happening, Sent
from lab.judging.kind import ENDS, Kind
from lab.judging.quantity import Quantity, Row, Told
from lab.tcp import UNSPECIFIED, Flow
from lab.verdict import Bracket

_REASON = "NO_SOCKET"
"""The kernel's reason for dropping a SYN to a port where nobody listens (enum skb_drop_reason)."""

_KNOWN = "the wire's log of every frame"
_FLOW = {
    "source": "address of the sender",
    "sport": "its port",
    "destination": "address of the receiver",
    "dport": "its port",
    "protocol": "name of the protocol",
    "packets": "number of packets (1)",
    "bytes": "number of bytes, as `layer` says",
}


def of_flows(quantity: Quantity, told: Told, happened: Happened) -> Iterator[Finding]:
    """Yield findings for both directions between the hosts, and for each frame that was sent on purpose."""
    totals: dict[tuple[str, str], list[Carried]] = {}
    for connection in happened.connections:
        flow = connection.client.flow
        for direction, ends, carried in (
            ("egress", (flow.laddr, flow.raddr), connection.to_server),
            ("ingress", (flow.raddr, flow.laddr), connection.to_client),
        ):
            if carried and quantity.direction in ("both", direction):
                totals.setdefault(ends, []).append(carried)
    for (source, destination), carried_each in totals.items():
        yield from _of_direction(quantity, told, source, destination, carried_each, happened.port)
    if quantity.direction != "egress":  # they were sent to the observed host
        yield from of_frames(told, happened.frames)


def _of_direction(
    quantity: Quantity, told: Told, source: str, destination: str, carried: Sequence[Carried], port: int
) -> Iterator[Finding]:
    mine = rows_between(quantity, told, source, destination, port)
    subject = f"{source} to {destination}"
    raw = [row.raw for row in mine][-3:]
    tells = {name for row in mine for name in row.fields}
    truths = {
        "packets": sum(it.packets for it in carried),
        "bytes": sum(getattr(it, quantity.layer) for it in carried),
    }
    if not mine:
        truth = Bracket.exactly(truths["packets"])
        yield absent("packets", subject, truth, lost=told.lost, unit="", known_by=_KNOWN)
        return
    for name, number in truths.items():
        if name == "bytes" and name not in tells:
            continue
        if name == "packets" and name not in tells and "bytes" in tells and quantity.layer == "payload":
            continue
        counted = total(mine, name, missing=int(name == "packets"))
        step = quantity.resolution_bytes * len(mine) if name == "bytes" else 0
        shown, truth = f"{name} ({quantity.layer})" if name == "bytes" else name, Bracket.exactly(number)
        yield value(shown, subject, truth, counted, unit="", resolution=step, known_by=_KNOWN, rows=raw)


def rows_between(quantity: Quantity, told: Told, source: str, destination: str, port: int) -> list[Row]:
    """Return the rows of a conversation's direction.

    A tool may show other traffic of the same hosts: a row with ports is of the conversation only if one is the server's.
    """
    mine = [row for row in told.rows if (row.get("source"), row.get("destination")) == (source, destination)]
    mine = [row for row in mine if row.get("sport") is None or port in (row.get("sport"), row.get("dport"))]
    return list({(row.get("sport"), row.get("dport")): row for row in mine}.values()) if quantity.last else mine


def total(rows: Sequence[Row], name: str, *, missing: int = 1) -> int:
    """Return the sum of a field. A row without it counts as `missing`."""
    return sum(missing if row.get(name) is None else int(row.get(name)) for row in rows)


def of_frames(told: Told, frames: Sequence[Sent]) -> Iterator[Finding]:
    """Yield a finding for each frame: it counts once, with its addresses, and with its own ports or none."""
    for frame in frames:
        if not frame.source:  # not IP: by the protocol alone
            named = [row for row in told.rows if frame.protocol in str(row.get("protocol") or "")]
            if named or any("protocol" in row.fields for row in told.rows):
                yield matched(
                    "frames that are no IP", frame.name, f"a row of {frame.protocol}",
                    named[0].raw if named else "none", right=bool(named), known_by="the frame as it was sent",
                )  # fmt: skip
            continue
        mine = [
            row for row in told.rows if (row.get("source"), row.get("destination")) == (frame.source, frame.destination)
        ]
        counted = total(mine, "packets")
        shown = [(row.get("sport"), row.get("dport")) for row in mine if row.get("sport") is not None]
        right = counted == 1 and all(ports == frame.ports for ports in shown)
        ports = f"ports {frame.ports[0]} and {frame.ports[1]}, or none" if frame.ports else "without ports"
        if not mine:
            yield absent(
                f"packets of {frame.name}",
                frame.source,
                Bracket.exactly(1),
                lost=told.lost,
                unit="",
                known_by="the frame as it was sent",
            )
        else:
            yield matched(
                f"packets of {frame.name}", frame.source, f"1, {ports}",
                f"{counted}" + (f", ports {shown[0][0]} and {shown[0][1]}" if shown else ""),
                right=right, known_by="the frame as it was sent", rows=[row.raw for row in mine][:3],
            )  # fmt: skip


def of_retransmissions(quantity: Quantity, told: Told, happened: Happened) -> Iterator[Finding]:
    """Yield a finding for each direction of each connection: the number of segments that were sent again."""
    for connection in happened.connections:
        for role, carried, ends in _directions(connection):
            if carried is None or quantity.direction == {"client": "ingress", "server": "egress"}[role]:
                continue
            mine = [row for row in told.rows if _is_of(row, ends)]
            counted = total(mine, "count")
            truth = Bracket.exactly(carried.again)
            subject = f"{ends} ({role})"
            if carried.again and not mine:
                yield absent("retransmissions", subject, truth, lost=told.lost, unit="", known_by=_KNOWN)
            else:
                yield value(
                    "retransmissions", subject, truth, counted, unit="", known_by=_KNOWN,
                    rows=[row.raw for row in mine][:5],
                )  # fmt: skip


def _directions(connection: Happening) -> Iterator[tuple[str, Carried | None, Flow]]:
    yield "client", connection.to_server, connection.client.flow
    yield "server", connection.to_client, connection.client.flow.reversed()


def _is_of(row: Row, ends: Flow) -> bool:
    """Return whether a row names a direction: its ends in this order, those that it tells."""
    pairs = zip(row.ends, ends, strict=True)
    return all(told in (None, truth) or truth in UNSPECIFIED for told, truth in pairs) and any(row.ends)


def of_drops(_: Quantity, told: Told, happened: Happened) -> Iterator[Finding]:
    """Yield the finding of the packets that the kernel dropped for a cause that the case made."""
    wanted = happened.facts.get("drops")
    if wanted is None:
        return
    if told.rows and not any({"lport", "rport"} & row.fields.keys() for row in told.rows):
        yield Finding(
            "drops", f"port {happened.port}", Verdict.UNKNOWN, truth=f"{wanted} dropped", rows=[told.rows[0].raw]
        )
        return
    mine = [row for row in told.rows if happened.port in (row.get("lport"), row.get("rport"))]
    most = happened.facts.get("most_drops", wanted)
    raw, subject, known = [row.raw for row in mine][:5], f"port {happened.port}", "the cause that the case made"
    if wanted and not mine:
        yield absent("drops", subject, (wanted, most, wanted), lost=told.lost, unit="", known_by=known)
        return
    counted = total(mine, "count")
    yield value("drops", subject, (wanted, most, wanted), counted, unit="", known_by=known, rows=raw)
    named = [row for row in mine if re.search("[A-Z]_", str(row.get("reason") or ""))]
    for row in named[:1]:
        reason = str(row.get("reason"))
        yield matched("reason", subject, _REASON, reason, right=_REASON in reason, known_by=known, rows=[row.raw])


def of_events(quantity: Quantity, told: Told, happened: Happened) -> Iterator[Finding]:
    """Yield a finding for each connection and event that the tool tells: it happened once, at the ends that it names."""
    event = quantity.event
    for connection in happened.connections:
        failed = bool(connection.error)
        truth = {
            "attempted": True,
            "opened": not failed,
            "accepted": not failed,
            "closed": not failed,
            "failed": failed,
        }[event]
        sides = [connection.server] if event == "accepted" else [connection.client, connection.server]
        of_sides = [[row for row in told.rows if side and _is_of(row, side.flow)] for side in sides]
        mine = [row for rows in of_sides for row in rows]
        subject = str(connection.client.flow)
        if truth and not mine:
            yield absent(
                event, subject, Bracket.exactly(1), lost=told.lost, unit="", known_by="the applications' own calls"
            )
        elif not truth:
            yield matched(event, subject, "none", str(len(mine)), right=not mine, rows=[row.raw for row in mine][:3])
        else:
            most = max(map(len, of_sides))  # a tool of the whole machine can tell of both sockets
            yield value(
                f"{event}, of each socket",
                subject,
                Bracket.exactly(1),
                most,
                unit="",
                rows=[row.raw for row in mine][:3],
            )


KINDS = {
    "flows": Kind("packets and bytes from one address to another", _FLOW, of_flows),
    "packets": Kind("single packets", _FLOW, of_flows),
    "retransmissions": Kind(
        "segments that were sent again",
        ENDS | {"count": "their number (1)", "state": "state of the socket"},
        of_retransmissions,
    ),
    "drops": Kind(
        "packets that the kernel dropped", ENDS | {"reason": "the reason's name", "count": "their number (1)"}, of_drops
    ),
    "events": Kind("events of connections; `event` is attempted, opened, accepted, closed or failed", ENDS, of_events),
}
