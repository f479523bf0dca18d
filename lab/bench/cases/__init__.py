"""The cases of the truth corpus, a module for each subject, each case a function that causes it and asks every tool that answers.

There is no list to edit: whatever case a module has in its `CASES` is put. Each says in its docstring which rows of the corpus it
is, and what must have been told.
"""

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lab.bench.context import Bench
from lab.bench.load_generator import loopback
from lab.bench.tools import Scope, Tool, running
from lab.network.conditions import Conditions
from lab.network.relay import Relay
from lab.network.topology import Topology, topology
from lab.units import MS

Verdicts = Iterator[tuple[str, Tool, bool]]
"""Row of the corpus, tool, whether what it told was right."""

Case = Callable[[Bench], Verdicts]

SPORT, DPORT = 20480, 80  # each other's byte swap
DELAY = Conditions(delay_ns=20 * MS)
MANY = 12_000
"""Peers, flows or connections: more than the 10,240 entries that a map of BCC has when nothing is said."""

_LOST = re.compile(r"\blost (\d+)|\b(\d+) (?:\w+ )?(?:lost|dropped)\b", re.IGNORECASE)


def every() -> list[Case]:
    """All cases, by subject."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    return [case for name in names for case in importlib.import_module(f"{__name__}.{name}").CASES]


@contextmanager
def wire(to_server: Conditions = DELAY, to_client: Conditions = DELAY) -> Iterator[Topology]:
    """Build a network whose wire keeps a log."""
    with topology(Relay()) as net:
        net.conditions(to_server, to_client)
        yield net


def with_many(tool: Tool, requests: int = MANY) -> tuple[str, list[Any], int]:
    """Hold as many requests, on `MANY` connections that are all open at once, beside a tool that is watching.

    Returns their address, the rows that the tool has told by the end, and how many it says are missing.
    """
    with loopback() as place, running(tool, Scope(place.client)) as run:
        place.requests(requests, MANY, MANY)
        run.await_quiet()
        run.end(60.0)
        return place.address, run.rows(), lost(run.complaints)


def lost(complaints: str) -> int:
    """How much a tool itself has said to be missing: events, packets, or what it counts."""
    return sum(int(before or behind) for before, behind in _LOST.findall(complaints))
