"""The rows that `lab packets --json` prints."""

from typing import Annotated

from msgspec import Meta

from lab.live.row_types import Count, Head, InnerVlan, OfPacket, Sequence, Vlan


class Packet(Head, OfPacket):
    """A frame that arrived at the interface. null: the packet does not have the field."""

    ifindex: int
    ethertype: Annotated[str, Meta(description="protocol after the Ethernet header and the VLAN tags", pattern="^0x")]
    vlan: Vlan | None
    inner_vlan: InnerVlan | None
    version: Annotated[int | None, Meta(description="of IP: 4 or 6")]
    protocol: Annotated[str | None, Meta(description="protocol in the IP header")]
    flags: Annotated[str | None, Meta(description="flags of the TCP header")]
    seq: Sequence | None
    ack: Annotated[Sequence | None, Meta(description="acknowledged sequence number of TCP")]
    payload_length: Annotated[Count | None, Meta(description="bytes after the TCP or UDP header, without padding")]
    frame_length: Annotated[Count, Meta(description="bytes of the frame as XDP receives it")]
    fragment: bool
    problem: Annotated[str | None, Meta(description="why the packet has no ports")]


SCHEMAS = {"packets": Packet}
