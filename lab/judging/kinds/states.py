"""Changes of state: their order, the time in each state, the ports and the owner of each row."""

from collections.abc import Iterator, Mapping

from lab.judging.finding import Finding, Verdict, absent, matched, timed, value
from lab.judging.happened import Happened, Happening, Socket
from lab.judging.kind import ENDS, Kind
from lab.judging.quantity import Quantity, Row, Told
from lab.tcp import byte_swapped

_FIELDS = ENDS | {
    "oldstate": "state left",
    "newstate": "state entered",
    "value": "time spent in oldstate",
    "socket": "what tells one socket from another",
    "time": "when the new state was entered, on the quantity's clock",
    "pid": "process that owns the socket",
}


def compare(quantity: Quantity, told: Told, happened: Happened) -> Iterator[Finding]:
    """Yield findings for each socket of each connection."""
    for connection in happened.connections:
        for side in filter(None, (connection.client, connection.server)):
            yield from _of_socket(quantity, told, side, happened.clocks)
        yield from _of_connection(told, connection)


def _of_socket(quantity: Quantity, told: Told, side: Socket, clocks: Mapping[str, int]) -> Iterator[Finding]:
    mine = [row for row in told.rows if row.ends == side.flow]
    subject = str(side.flow)
    spent = {row.get("oldstate"): row for row in mine}
    known = "the timestamps around the calls that cause each change, and the wire's log"
    for wait in side.waits:
        name, interval = f"time in {wait.state} ({side.role})", (wait.low_ns, wait.high_ns, wait.best_ns)
        row = spent.get(wait.state)
        if row is not None:
            yield value(
                name, subject, interval, row.get("value"),
                resolution=quantity.resolution_ns, known_by=known, rows=[row.raw],
            )  # fmt: skip
        elif not mine:
            yield absent(name, subject, interval, lost=told.lost, known_by=known)
    for row in mine:
        point = side.points.get(f"{str(row.get('newstate')).lower()}_entered")
        yield from timed(quantity, row, f"{subject} ({row.get('newstate')})", point, clocks)
    if mine:
        yield _in_order(side, mine, known)


def _in_order(side: Socket, mine: list[Row], known: str) -> Finding:
    """Return the finding of the sequence of states.

    A socket's rows lead along one possible path to its end. A tool need not follow a minisock, but must not say that a
    connection is closed that is in FIN_WAIT2 or TIME_WAIT. Changes to SYN_RECV and SYN_SENT may come before the ports.
    """
    entered = [row.get("newstate") for row in mine]
    paths = [
        [state for state in path if state in entered or state not in ("SYN_SENT", "SYN_RECV")]
        for path in side.sequences
    ]
    return matched(
        f"sequence of states ({side.role})",
        str(side.flow),
        " or ".join(" ".join(path) for path in paths),
        " ".join(map(str, entered)),
        right=any(entered == path for path in paths),
        known_by=known,
        rows=[row.raw for row in mine],
    )


def _of_connection(told: Told, connection: Happening) -> Iterator[Finding]:
    """Yield findings for all rows that can be of the connection, also with missing or swapped ports."""
    flow = connection.client.flow
    possible = {flow.lport, flow.rport, 0, None, byte_swapped(flow.lport), byte_swapped(flow.rport)}
    mine = [
        row
        for row in told.rows
        if {row.get("laddr"), row.get("raddr")} == {flow.laddr, flow.raddr}
        and {row.get("lport"), row.get("rport")} <= possible
    ]
    subject = str(flow)
    if not mine:
        return
    ports = {port for row in mine for port in (row.get("lport"), row.get("rport")) if port}
    yield matched(
        "ports", subject, f"{flow.lport} and {flow.rport}", " and ".join(map(str, sorted(ports))),
        right=ports == {flow.lport, flow.rport}, rows=[mine[0].raw],
    )  # fmt: skip
    if any("pid" in row.fields for row in mine):
        yield from _owners(connection, mine)
    if any("socket" in row.fields for row in mine):
        yield from _first_rows(subject, mine)


def _owners(connection: Happening, mine: list[Row]) -> Iterator[Finding]:
    for side in filter(None, (connection.client, connection.server)):
        rows = [row for row in mine if row.get("laddr") == side.flow.laddr]
        wrong = [row for row in rows if row.get("pid") not in (None, side.pid)]
        told = ", ".join(dict.fromkeys(str(row.get("pid")) for row in wrong or rows))
        if rows:
            yield matched(
                "owner", str(side.flow), f"process {side.pid}, or unknown", told, right=not wrong,
                known_by="the application's own process id", rows=[row.raw for row in wrong][:3],
            )  # fmt: skip


def _first_rows(subject: str, mine: list[Row]) -> Iterator[Finding]:
    """Yield the finding of the first row of each socket: nothing came before it, so its time cannot be known."""
    first: dict[str, Row] = {}
    for row in mine:
        first.setdefault(str(row.get("socket")), row)
    known = [row for row in first.values() if row.get("value") is not None]
    if known:
        yield matched(
            "time in the state before a socket's first row", subject, "unknown", f"{known[0].get('value')} ns", right=False,
            known_by="no change came before the first one, so no time can have been measured", rows=[known[0].raw],
        )  # fmt: skip
    else:
        yield Finding(
            "time in the state before a socket's first row", subject, Verdict.RIGHT, told="unknown", truth="unknown"
        )


KINDS = {"states": Kind("changes of TCP states, and the time in each", _FIELDS, compare)}
