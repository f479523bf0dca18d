"""The rows that `lab flows --json` prints. `time_ns` is the time of the report."""

from typing import Annotated, NotRequired

from msgspec import Meta

from lab.live.row_types import AnyPort, Count, Head, InnerVlan, Moment, Vlan

End = Annotated[str, Meta(description="IP address, or MAC address of a packet that is not IP")]
Segments = Annotated[Count, Meta(description="number of TCP segments with this flag")]


class Pair(Head):
    """The packets from one address to another at an interface. null: the packets do not have the field."""

    protocol: str
    ethertype: int | None
    ip_protocol: int | None
    source_address: End | None
    destination_address: End | None
    source_mac: NotRequired[Annotated[str | None, Meta(description="with --mac")]]
    destination_mac: NotRequired[Annotated[str | None, Meta(description="with --mac")]]
    interface: str
    direction: Annotated[str, Meta(pattern="^(ingress|egress)$")]
    vlan: Vlan | None
    inner_vlan: InnerVlan | None
    packets: Annotated[Count, Meta(description="packets on the wire")]
    bytes: Annotated[Count, Meta(description="bytes of the frames, with all headers")]
    payload_bytes: Annotated[Count, Meta(description="payload of TCP and UDP")]
    syns: Segments
    fins: Segments
    rsts: Segments
    first_ns: Moment
    last_ns: Moment
    qdisc_drops: Annotated[
        Count | None, Meta(description="dropped by the interface's queueing discipline; of all rows")
    ]


class Connection(Pair):
    """Both directions of a connection (--connections). The source sent the first packet seen."""

    source_port: AnyPort | None
    destination_port: AnyPort | None
    problem: Annotated[str | None, Meta(description="why there are no ports")]
    reply_packets: Count
    reply_bytes: Count
    reply_payload_bytes: Count
    reply_syns: Segments
    reply_fins: Segments
    reply_rsts: Segments
    reply_first_ns: Moment | None


class Older(Head):
    """The sums of the rows that were removed because there were too many."""

    protocol: Annotated[str, Meta(description="`older`")]
    packets: Count
    bytes: Count


SCHEMAS = {"flows": Pair, "flows.connections": Connection, "flows.older": Older}
