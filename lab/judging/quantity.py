"""A quantity: one number that a tool tells, as its description defines it."""

from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct

from lab.tcp import Flow
from lab.units import BYTES_OF_UNIT, NS_OF_UNIT, duration_ns

_LAYERS = {"frame": "whole frames", "ip": "IP packets", "payload": "data"}
_AFTER_HANDSHAKE = ("established_entered", "connect_returned", "accept_returned")


class Quantity(Struct, forbid_unknown_fields=True, frozen=True):
    """One number that a tool tells.

    - `kind`: one of `lab.judging.kinds`.
    - `start`, `end` (`from` and `to` in the file): the points between which a time lies (`lab.judging.points`).
    - `unit`: of the value; a time's `ns`, `us`, `ms` or `s`, a size's `B` or `KiB`.
    - `resolution`: what the tool rounds its times to; by default the unit.
    - `where`: the records that tell it: a field's name and a regular expression for its whole text.
    - `fields`: the record's name of each field, if it is another one.
    - `clock`: of the field `time`, at which the value was complete: the time of the point `to`, or of the new state.
    - `unknown`: texts that say that a value is unknown.
    - `layer`: what the bytes of a packet include: whole `frame`, `ip` packet, or `payload`.
    - `direction`: whether it tells what the interface receives, what it sends, or both.
    - `smoothed`: an RTT is the kernel's smoothed one, not a single sample.
    - `event`: what happened to a connection, for the kind `events`.
    - `last`: of several records of one flow the last has the totals. Otherwise they are added up.
    """

    kind: str
    start: str = msgspec.field(name="from", default="")
    end: str = msgspec.field(name="to", default="")
    unit: str = ""
    resolution: str = ""
    where: dict[str, str] = {}
    fields: dict[str, str] = {}
    unknown: tuple[str, ...] = ("", "-", "None", "null")
    layer: Literal["frame", "ip", "payload"] = "frame"
    direction: Literal["both", "ingress", "egress"] = "both"
    smoothed: bool = False
    last: bool = False
    event: Literal["", "attempted", "opened", "accepted", "closed", "failed"] = ""
    clock: Literal["", "monotonic", "wall", "boot"] = ""

    @property
    def resolution_ns(self) -> int:
        """The tool's own rounding of times, in nanoseconds."""
        return duration_ns(self.resolution) if self.resolution else NS_OF_UNIT.get(self.unit, 1)

    @property
    def resolution_bytes(self) -> int:
        """The tool's own rounding of sizes; 0 if it tells single bytes."""
        return BYTES_OF_UNIT[self.unit] if self.unit not in ("", "B") else 0

    @property
    def definition(self) -> str:
        """What the tool says that it measures, as text."""
        if not self.start:
            return (
                f"bytes of {_LAYERS[self.layer]}" if self.kind == "flows" else "smoothed RTTs" if self.smoothed else ""
            )
        late = self.kind == "duration" and self.start in _AFTER_HANDSHAKE
        return f"from {self.start} to {self.end}{', without the handshake' if late else ''}"


class Row(NamedTuple):
    """A row of a tool: typed fields, and the line that it came from."""

    fields: dict[str, Any]
    raw: str

    def get(self, name: str) -> Any:
        """Return a field; None if the row has none, or if the tool says that it is unknown."""
        return self.fields.get(name)

    @property
    def ends(self) -> tuple[Any, ...]:
        """Local address and port, remote address and port."""
        return tuple(self.fields.get(name) for name in Flow._fields)


class Told(NamedTuple):
    """Everything that a tool told of one quantity, and how much it says that it lost."""

    rows: list[Row]
    lost: int
