"""What an application did to a socket and when: the raw material of truth.

Each call is stamped before and after on `CLOCK_MONOTONIC`, the clock of `bpf_ktime_get_ns()`: whatever the kernel did inside
the call lies between the two stamps, on an idle machine and on an overloaded one alike.
"""

import json
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from lab.errors import LabError
from lab.tcp import Flow


class Call(NamedTuple):
    """One system call, or one `sleep` that stands for the application's own delay.

    `result` is what the call returned (bytes for send and recv), `error` the errno's name if it failed.
    """

    name: str
    enter_ns: int
    exit_ns: int
    result: int = 0
    error: str = ""


@dataclass
class Timeline:
    """One socket's life as its application saw it; `flow` has the application's own side first.

    `cookie` is SO_COOKIE, `pid` and `comm` the process that owns the socket.
    """

    role: str
    flow: Flow
    cookie: int = 0
    pid: int = 0
    comm: str = ""
    calls: list[Call] = field(default_factory=list)

    def find(self, name: str) -> Call:
        """Return the first call of this name. Raises `LookupError` when there was none."""
        for call in self.calls:
            if call.name == name:
                return call
        raise LookupError(f"the {self.role} of {self.flow} never called {name}()")

    @property
    def opened_ns(self) -> int:
        """When the call returned that opened the connection.

        Of two connections with the same flow the earlier one has returned from it before the later one can begin, and it may
        have been entered at any time before: this end of the call tells their order, the other does not.
        """
        return self.find("connect" if self.role == "client" else "accept").exit_ns

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> "Timeline":
        """Read what `to_json` wrote. Raises `LabError` for anything else."""
        try:
            values = json.loads(line)
            values["flow"] = Flow(*values["flow"])
            values["calls"] = [Call(*call) for call in values["calls"]]
            return cls(**values)
        except (ValueError, TypeError, KeyError) as error:
            raise LabError(f"not a timeline: {line[:60]!r}") from error


@dataclass(frozen=True)
class Connection:
    """Both ends of one connection. `server` is None when nobody accepted it."""

    client: Timeline
    server: Timeline | None


def pair(timelines: Iterable[Timeline]) -> list[Connection]:
    """Join clients with the servers that have the same flow from the other side, in the order in which they were opened.

    A flow can be used again: its clients and its servers meet in the order of time.
    """
    in_order = sorted(timelines, key=lambda timeline: timeline.opened_ns)
    servers: dict[Flow, deque[Timeline]] = defaultdict(deque)
    for timeline in in_order:
        if timeline.role == "server":
            servers[timeline.flow.reversed()].append(timeline)
    clients = [timeline for timeline in in_order if timeline.role == "client"]
    return [Connection(client, servers[client.flow].popleft() if servers[client.flow] else None) for client in clients]
