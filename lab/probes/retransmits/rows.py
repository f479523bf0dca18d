"""The rows that `lab retransmits --json` prints."""

from typing import Annotated

from msgspec import Meta

from lab.live.row_types import Count, Head, OfSocket, Sequence


class Retransmission(Head, OfSocket):
    """A segment that the kernel sent again, or failed to send again."""

    state: Annotated[str, Meta(description="TCP state of the socket; NEW_SYN_RECV for a SYN-ACK")]
    what: Annotated[str, Meta(description="what is sent again: data, SYN, SYN-ACK, FIN")]
    seq: Sequence
    bytes: Annotated[Count, Meta(description="bytes of data")]
    segments: Annotated[Count, Meta(description="number of segments that the device makes of it")]
    times: Annotated[Count, Meta(description="how often the segment has been sent again, this time included")]
    error: Annotated[str | None, Meta(description="errno of an attempt that failed; null: the segment was sent")]


SCHEMAS = {"retransmits": Retransmission}
