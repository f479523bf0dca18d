"""The rows that `lab drops --json` prints."""

from typing import Annotated

from msgspec import Meta

from lab.live.row_types import Count, Head, Netns, OfPacket, OfProcess, Sequence


class Drop(Head, OfPacket, OfProcess):
    """A TCP packet that the kernel freed. `pid` and `comm` are those of a process that holds the socket."""

    netns: Netns
    reason: Annotated[str, Meta(description="reason of the kernel, or ACCEPT_QUEUE_FULL")]
    kernel_reason: Annotated[str, Meta(description="name in enum skb_drop_reason, without SKB_DROP_REASON_")]
    flags: Annotated[str, Meta(description="flags of the TCP header")]
    seq: Sequence
    bytes: Annotated[Count, Meta(description="bytes of data")]


SCHEMAS = {"drops": Drop}
