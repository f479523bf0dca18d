"""The system calls of one socket, with the time before and after each: the input of `lab.truth`.

The clock is `CLOCK_MONOTONIC`, which `bpf_ktime_get_ns()` reads too. Whatever the kernel did for a call happened
between the call's two timestamps, on an idle machine and on an overloaded one alike.
"""

import json
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from lab.errors import LabError
from lab.tcp import Flow

CLOSING = ("shutdown", "close")
"""Calls of which the first one sends the socket's FIN, or its RST."""

FAST_OPEN = "fast-open"
"""Mark, without a length, before the send that opens a connection, and before its accept(): TCP Fast Open, RFC 7413."""

_RESET = ("ECONNRESET", "EPIPE")


class Call(NamedTuple):
    """One system call, or one `sleep` that stands for the application's own delay.

    `result` is the call's return value (bytes for send and recv), `error` the name of the errno if it failed.
    """

    name: str
    enter_ns: int
    exit_ns: int
    result: int = 0
    error: str = ""


@dataclass
class Timeline:
    """The calls of one socket in order; `flow` has the application's own side first.

    `cookie` is SO_COOKIE, `pid` and `comm` the process that owns the socket.
    """

    role: str
    flow: Flow
    cookie: int = 0
    pid: int = 0
    comm: str = ""
    calls: list[Call] = field(default_factory=list)

    def find(self, *names: str) -> Call:
        """Return the first call with one of these names. Raises `LookupError` if there is none."""
        for call in self.calls:
            if call.name in names:
                return call
        wanted = " or ".join(f"{name}()" for name in names)
        raise LookupError(f"the {self.role} of {self.flow} never called {wanted}")

    @property
    def opening(self) -> Call:
        """The connect() or accept() of this side, or the send that opens the connection.

        A connect() that does not block lasts until the wait for its outcome ends.
        """
        if self.fast_opened:
            return self.calls[self.calls.index(self.find(FAST_OPEN)) + 1]
        call = self.find("connect" if self.role == "client" else "accept")
        if call.error != "EINPROGRESS":
            return call
        outcome = self.calls[self.calls.index(call) + 1]
        return call._replace(exit_ns=outcome.exit_ns, error=outcome.error)

    @property
    def opened_ns(self) -> int:
        """Time at which the call returned that opened the connection.

        If two connections use the same flow, the earlier one has returned from this call before the later one can
        begin. The entry of the call does not give their order: the later one can have entered it at any time before.
        """
        return self.opening.exit_ns

    @property
    def closing(self) -> Call:
        """The call that sends this side's FIN or RST. Raises `LookupError` if there is none."""
        return self.find(*CLOSING)

    @property
    def resets(self) -> bool:
        """Whether this side closes with a RST: it has set SO_LINGER with a time of 0."""
        return any(call.name == "linger0" for call in self.calls)

    @property
    def deferred(self) -> bool:
        """Whether the kernel waited for data before it opened this side: its listener has TCP_DEFER_ACCEPT."""
        return any(call.name == "deferred" for call in self.calls)

    @property
    def fast_opened(self) -> bool:
        """Whether the client's first data was to open the connection. A SYN that is sent again has none (tcp_connect())."""
        return any(call.name == FAST_OPEN for call in self.calls)

    @property
    def saw_fin(self) -> Call | None:
        """The call that reported the peer's FIN: a recv() that returned 0 bytes. None if there is none."""
        return next((call for call in self.calls if call.name == "recv" and not call.result and not call.error), None)

    @property
    def saw_reset(self) -> Call | None:
        """The call that reported the peer's RST, as ECONNRESET or EPIPE. None if there is none."""
        return next((call for call in self.calls if call.error in _RESET), None)

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(vars(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> "Timeline":
        """Read a line that `to_json` wrote. Raises `LabError` for anything else."""
        try:
            values = json.loads(line)
            values["flow"] = Flow(*values["flow"])
            values["calls"] = [Call(*call) for call in values["calls"]]
            return cls(**values)
        except (ValueError, TypeError, KeyError) as error:
            raise LabError(f"not a timeline: {line[:60]!r}") from error


@dataclass(frozen=True)
class Connection:
    """Both ends of one connection. `server` is None if the connection was not accepted."""

    client: Timeline
    server: Timeline | None


def pair(timelines: Iterable[Timeline], translated: Mapping[str, str] = MappingProxyType({})) -> list[Connection]:
    """Return connections, in the order in which the clients opened them: each client with the server of the same flow.

    If a flow was used more than once, its clients and its servers are matched in order of time. `translated` has, by
    address at the server, the address at the client where a router translates it.
    """
    in_order = sorted(timelines, key=lambda timeline: timeline.opened_ns)
    servers: dict[Flow, deque[Timeline]] = defaultdict(deque)
    for timeline in in_order:
        if timeline.role == "server":
            servers[timeline.flow.translated(translated).reversed()].append(timeline)
    clients = [timeline for timeline in in_order if timeline.role == "client"]
    return [Connection(client, servers[client.flow].popleft() if servers[client.flow] else None) for client in clients]
