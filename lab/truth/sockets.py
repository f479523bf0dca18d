"""Match sockets that a probe reported with the applications' timelines, by network namespace, flow and time."""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from lab.arrays import Rows
from lab.tcp import address_text
from lab.timeline import Timeline


class Socket(NamedTuple):
    """One socket's rows in order of time, and a time (ns) at which it had its flow, near its opening.

    Use the second change of state: a client enters SYN_SENT before connect() chooses the port, and until it has one
    another socket can open, use and close the same flow.
    """

    rows: Rows
    opened_ns: int


class Sockets:
    """Reported sockets. The first row of each names `netns`, `lport`, `rport` and `raddr`."""

    def __init__(self, sockets: Iterable[Socket]) -> None:
        self._by_flow: dict[tuple[int, int, int, str], list[Socket]] = defaultdict(list)
        for socket in sockets:
            first = socket.rows[0]
            ports = (int(first["lport"]), int(first["rport"]))
            self._by_flow[int(first["netns"]), *ports, address_text(first["raddr"].tobytes())].append(socket)
        for found in self._by_flow.values():
            found.sort(key=lambda socket: socket.opened_ns)

    def take(self, netns: int, timeline: Timeline) -> "Rows | None":
        """Remove and return the rows of a timeline's socket, None if there is none.

        If a flow was used more than once, this is the last socket that had the flow when the application's connect() or
        accept() returned. If the probe missed the opening, it is the first one that had the flow by the application's
        last call. Ask in the order in which the connections were opened: a connection whose socket was missed then
        cannot get an earlier one's.

        The local address is not compared: an application whose connection was refused does not know it.
        """
        flow = timeline.flow
        found = self._by_flow[netns, flow.lport, flow.rport, flow.raddr]
        at_opening = [index for index, socket in enumerate(found) if socket.opened_ns <= timeline.opened_ns]
        by_the_end = [index for index, socket in enumerate(found) if socket.opened_ns <= timeline.calls[-1].exit_ns]
        chosen = at_opening[-1:] or by_the_end[:1]
        return found.pop(chosen[0]).rows if chosen else None


def namespaces(rows: Rows) -> str:
    """Return the network namespaces that a socket's rows name: a socket is in one as long as it exists."""
    return " ".join(map(str, np.unique(rows["netns"])))


def split(rows: Rows) -> list[Rows]:
    """Return each socket's rows, by the column `socket`. Their order is kept."""
    order = np.argsort(rows["socket"], kind="stable")
    cuts = np.flatnonzero(np.diff(rows["socket"][order])) + 1
    return [rows[indexes] for indexes in np.split(order, cuts) if len(indexes)]
