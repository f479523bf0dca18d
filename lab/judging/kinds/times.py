"""Times between two points of a connection or of a request: durations, connect and accept latency, layers."""

from collections.abc import Iterator, Mapping

from lab.judging import points
from lab.judging.finding import Finding, absent, matched, timed, value
from lab.judging.happened import Happened, Happening
from lab.judging.kind import ENDS, Kind
from lab.judging.points import Point
from lab.judging.quantity import Quantity, Row, Told
from lab.tcp import UNSPECIFIED, Flow

_FIELDS = ENDS | {"value": "the time", "time": "when it was complete, on the quantity's clock"}


def of_connections(quantity: Quantity, told: Told, happened: Happened) -> Iterator[Finding]:
    """Yield a finding for each connection: the first row of its client's socket or, without, of its server's.

    A connection that has not reached both points has no value, and needs no row.
    """
    for connection in happened.connections:
        for flow, reached in _views(connection):
            mine = rows_of(told.rows, flow)
            truth = points.between(reached, quantity.start, quantity.end, connection.least_ns)
            if mine and truth:
                yield value(
                    _name(quantity), str(flow), truth, mine[0].get("value"),
                    resolution=quantity.resolution_ns, known_by=known_by(quantity, reached), rows=[mine[0].raw],
                )  # fmt: skip
                yield from timed(quantity, mine[0], str(flow), reached.get(quantity.end), happened.clocks)
            elif mine and (mine[0].get("value") or 0) < 0:
                yield matched(
                    _name(quantity), str(flow), "no negative time", f"{mine[0].get('value')} ns", right=False,
                    known_by="a time cannot be negative", rows=[mine[0].raw],
                )  # fmt: skip
            if mine:
                break
        else:
            yield from _absent(quantity, told, connection)


def _views(connection: Happening) -> Iterator[tuple[Flow, Mapping[str, Point]]]:
    """Yield both ends' views of a connection. Without a server's socket, a row can still name the server first."""
    client, server = connection.client, connection.server
    yield client.flow, client.points
    yield (server.flow, server.points) if server else (client.flow.reversed(), client.points)


def _absent(quantity: Quantity, told: Told, connection: Happening) -> Iterator[Finding]:
    side = connection.client
    if truth := points.between(side.points, quantity.start, quantity.end, connection.least_ns):
        yield absent(_name(quantity), str(side.flow), truth, lost=told.lost, known_by=known_by(quantity, side.points))


def of_requests(quantity: Quantity, told: Told, happened: Happened) -> Iterator[Finding]:
    """Yield a finding for each request: the rows of a connection are its requests in order."""
    for connection in happened.connections:
        sides = [side for side in (connection.client, connection.server) if side]
        mine = next((found for side in sides if (found := rows_of(told.rows, side.flow))), [])
        for number, request in enumerate(connection.requests):
            truth = points.between(request, quantity.start, quantity.end, {})
            if truth is None:
                continue
            subject = f"request {number + 1} of {connection.client.flow}"
            known = known_by(quantity, request)
            if number < len(mine):
                row = mine[number]
                yield value(
                    _name(quantity), subject, truth, row.get("value"),
                    resolution=quantity.resolution_ns, known_by=known, rows=[row.raw],
                )  # fmt: skip
            else:
                yield absent(_name(quantity), subject, truth, lost=told.lost, known_by=known)


def _name(quantity: Quantity) -> str:
    return f"from {quantity.start} to {quantity.end}"


def rows_of(rows: list[Row], flow: Flow) -> list[Row]:
    """Return the rows of one socket.

    An unspecified address in `flow`, that of a refused connection, matches every address.
    """
    return [
        row
        for row in rows
        if all(told == truth or truth in UNSPECIFIED for told, truth in zip(row.ends, flow, strict=True))
    ]


def known_by(quantity: Quantity, reached: Mapping[str, Point]) -> str:
    """Return the two points in words, with the interval of each."""
    return "; ".join(
        f"{name}: {points.POINTS[name]}, within {(reached[name].high_ns - reached[name].low_ns) / 1000:.1f} us "
        f"({reached[name].known_by})"
        for name in dict.fromkeys((quantity.start, quantity.end))
    )


KINDS = {
    "duration": Kind("how long a connection or a socket lasted", _FIELDS, of_connections, timed=True),
    "connect": Kind("how long it took to open a connection", _FIELDS, of_connections, timed=True),
    "accept": Kind("how long an open connection waited to be accepted", _FIELDS, of_connections, timed=True),
    "requests": Kind("how long each request took", _FIELDS, of_requests, timed=True),
    "layers": Kind("how long each request stayed in one layer", _FIELDS, of_requests, timed=True),
}
