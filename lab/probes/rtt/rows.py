"""The rows that `lab rtt --json` prints."""

from typing import Annotated, TypedDict

from msgspec import Meta

from lab.live.row_types import Count, Head, OfSocket

Microseconds = Annotated[int, Meta(ge=0, description="microseconds")]


class Bucket(TypedDict):
    """The values from `low_us` to `high_us`, both included."""

    low_us: Microseconds
    high_us: Microseconds
    count: Count


class Histogram(Head, OfSocket):
    """The round-trip times of a group of connections. `time_ns` is the time of the report.

    null: the group has several values of a field, or no value of the RTT. A quantile is between `low` and `high`.
    """

    kind: Annotated[str, Meta(pattern="^(srtt|rtt)$", description="smoothed RTT, or single samples")]
    count: Count
    sum_us: Microseconds
    min_us: Microseconds | None
    max_us: Microseconds | None
    p50_low_us: Microseconds | None
    p50_high_us: Microseconds | None
    p99_low_us: Microseconds | None
    p99_high_us: Microseconds | None
    unclear: Annotated[Count, Meta(description="samples whose value is unknown")]
    distorted: Annotated[Count, Meta(description="samples of handshakes that are not of the network; not in `count`")]
    buckets: Annotated[list[Bucket], Meta(description="the buckets that are not empty")]


SCHEMAS = {"rtt": Histogram}
