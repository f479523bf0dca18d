"""The story of a wrong number: what the applications, the interfaces, the wire and the probes recorded of its connection.

A run keeps no recordings, so the stories are written beside the checks, to `stories.jsonl`. What lives here: that file. What does
not: the timestamps (`lab.report.request_timeline`).
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from lab.observation import Observed
from lab.report.request_timeline import WIRE, Stamp, stamps
from lab.results import schema
from lab.tcp import endpoint
from lab.timeline import Connection
from lab.units import MS
from lab.verdict import Check

FILE = "stories.jsonl"

_MOST = 5  # of the wrong numbers of one probe in one recording
_MOST_STAMPS = 200
_FIRST = 3  # connections that are told of a number of all connections


class Row(NamedTuple):
    """A line of a story: milliseconds since its first timestamp, and the fields of a `Stamp`; `host` is "" for a mark."""

    time: str
    host: str
    who: str
    what: str


class Story(msgspec.Struct, frozen=True):
    """A wrong number, and the timestamps around it in order of time; `left_out` counts those that are further away.

    They are those of the applications, of the interfaces, of the wire, and of the probe whose number it is.
    """

    check: Check
    stamps: list[Stamp]
    left_out: int = 0

    @property
    def rows(self) -> list[Row]:
        """The timestamps for a table; among them, for a point in time, the ends of its bracket and the measured value."""
        marks = []
        if self.check.is_time:
            ends = ((self.check.low, "the truth is not earlier"), (self.check.high, "the truth is not later"))
            places = (*ends, (self.check.measured, f"measured: {self.check.quantity}"))
            marks = [Stamp(place, "", "", what) for place, what in places if isinstance(place, int)]
        first_ns = self.stamps[0].time_ns if self.stamps else 0
        return [Row(f"{(stamp.time_ns - first_ns) / MS:,.3f}", *stamp[1:]) for stamp in sorted([*self.stamps, *marks])]

    @property
    def hosts(self) -> list[str]:
        """The hosts that have timestamps, in the order of the path."""
        have = {stamp.host for stamp in self.stamps}
        return [host for host in ("client", WIRE, "server") if host in have]

    @classmethod
    def of(cls, check: Check, observed: Observed) -> "Story":
        """Return the story of a check, from the connections that its subject names, or from the first if it names none."""
        every = observed.connections
        mine = [connection for connection in every if _is_named(connection, check.subject)] or every[:_FIRST]
        found = sorted({stamp for connection in mine for stamp in stamps(observed, connection, check.probe)})
        nearest = sorted(found, key=lambda stamp: abs(stamp.time_ns - _middle_ns(check, found)))[:_MOST_STAMPS]
        return cls(check, sorted(nearest), len(found) - len(nearest))


def lines(checks: Iterable[Check], observed: Observed) -> str:
    """Return the lines of `stories.jsonl` for the first wrong numbers of a recording; "" if no number is wrong."""
    wrong = [check for check in checks if not check.passed][:_MOST]
    return "".join(msgspec.json.encode(Story.of(check, observed)).decode() + "\n" for check in wrong)


def read(folder: Path) -> dict[Check, Story]:
    """Return the stories of a run; none without a file. Raises `LabError` if the file has another form."""
    path = folder / FILE
    if not path.exists():
        return {}
    return {story.check: story for story in schema.read(path, _DECODER.decode_lines, "run the scenarios again")}


_DECODER = msgspec.json.Decoder(Story)


def _is_named(connection: Connection, subject: str) -> bool:
    flow = connection.client.flow
    return re.search(rf"(?<![\w.:\[]){re.escape(endpoint(flow.laddr, flow.lport))}(?!\d)", subject) is not None


def _middle_ns(check: Check, found: list[Stamp]) -> int:
    """Return the time around which a story is told: the measured point in time, otherwise the first timestamp."""
    if check.is_time and isinstance(check.measured, int):
        return check.measured
    return found[0].time_ns
