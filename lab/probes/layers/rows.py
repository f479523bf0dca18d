"""The rows that `lab layers --json` prints."""

from typing import Annotated, Any, TypedDict

from msgspec import Meta

from lab.live.row_types import Address, Count, Head, Moment, Netns, OfConnection, OfPacket, Sequence, Span
from lab.probes.layers.requests import LEGS
from lab.probes.layers.stages import LAYERS

_of: Any = TypedDict  # its fields are built below, which type checkers do not follow


class _Request(Head, OfConnection):
    kind: Annotated[str, Meta(pattern="^(request|stream|push|stretch)$")]
    elsewhere_ns: Annotated[Span | None, Meta(description="layers that were not observed, together")]
    total_ns: Annotated[Span | None, Meta(description="first write of the request to last read of the reply")]


class _Segment(Head, OfPacket):
    netns: Annotated[Netns, Meta(description="network namespace of the sender, or of the receiver if it was not seen")]
    seq: Sequence
    length: Annotated[Count, Meta(description="bytes of data")]
    fate: str
    read_length: Annotated[Count | None, Meta(description="bytes that the read() of its last byte returned")]


class Summary(Head):
    """The percentiles of a layer over the requests of the interval, or since the start."""

    since_ns: Annotated[Moment | None, Meta(description="begin of the interval; null: the start of the tool")]
    peer: Annotated[Address | None, Meta(description="the other host; null: all together")]
    leg: Annotated[str, Meta(description="request, reply, or empty for both")]
    layer: str
    host: str
    requests: Count
    p50_ns: Span
    p90_ns: Span
    p99_ns: Span
    max_ns: Span
    share: Annotated[float, Meta(ge=0, le=1, description="of the total time of the requests")]


_LEGS: dict[str, Any] = {}
for _leg in LEGS:
    _LEGS |= {
        f"{_leg}_bytes": Count,
        f"{_leg}_sent": Annotated[Count, Meta(description="transmissions of the last byte")],
        f"{_leg}_first_ns": Annotated[Moment | None, Meta(description="the first byte was written, or was read")],
        f"{_leg}_last_ns": Annotated[Moment | None, Meta(description="the last byte was written, or was read")],
    }
    _LEGS |= {f"{_leg}_{layer}_ns": Span | None for layer in LAYERS}
Request = _of("Request", _Request.__annotations__ | _LEGS)
Segment = _of("Segment", _Segment.__annotations__ | {f"{layer}_ns": Span | None for layer in LAYERS[1:]})

SCHEMAS = {"layers": Request, "layers.segments": Segment, "layers.summary": Summary}
