"""The cases of the truth corpus: one module per subject, one function per case.

A case causes a situation on purpose and compares the answer of each tool with the truth. A module lists its cases in
`CASES`; there is no other list to edit. The docstring of a case names its rows of the corpus and states what a correct
tool reports.
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
"""Row of the corpus, tool, whether the tool's answer is correct."""

Case = Callable[[Bench], Verdicts]

SPORT, DPORT = 20480, 80  # each other's byte swap
DELAY = Conditions(delay_ns=20 * MS)
MANY = 12_000
"""Peers, flows or connections: more than the 10,240 entries of a BCC map with the default size."""

_LOST = re.compile(r"\blost (\d+)|\b(\d+) (?:\w+ )?(?:lost|dropped)\b", re.IGNORECASE)


def every() -> list[Case]:
    """Return all cases, sorted by subject."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    return [case for name in names for case in importlib.import_module(f"{__name__}.{name}").CASES]


@contextmanager
def wire(to_server: Conditions = DELAY, to_client: Conditions = DELAY) -> Iterator[Topology]:
    """Build a network whose wire logs every frame."""
    with topology(Relay()) as net:
        net.conditions(to_server, to_client)
        yield net


def with_many(tool: Tool, requests: int = MANY) -> tuple[str, list[Any], int]:
    """Send requests on `MANY` connections that are open at the same time, while a tool watches.

    Return the load's address, the tool's rows at the end, and the number that the tool itself reports as lost.
    """
    with loopback() as place, running(tool, Scope(place.client)) as run:
        place.requests(requests, MANY, MANY)
        run.await_quiet()
        run.end(60.0)
        return place.address, run.rows(), lost(run.stderr)


def lost(stderr: str) -> int:
    """Return the number of events or packets that a tool itself reports as lost or dropped."""
    return sum(int(before or behind) for before, behind in _LOST.findall(stderr))
