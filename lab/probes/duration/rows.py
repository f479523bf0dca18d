"""The rows that `lab duration --json` prints."""

from typing import Annotated

from msgspec import Meta

from lab.live.row_types import Count, Head, InnerVlan, Moment, OfConnection, Span, Vlan

Side = Annotated[str, Meta(pattern="^(client|server)$")]


class Lifetime(Head, OfConnection):
    """A connection at an interface. `time_ns` is when it was over, or when the row was printed if that is unknown."""

    interface: str
    vlan: Vlan | None
    inner_vlan: InnerVlan | None
    roles_known: Annotated[bool, Meta(description="false: the client is the sender of the first FIN or RST")]
    only_from: Annotated[Side | None, Meta(description="the only side of which segments were seen")]
    start_ns: Annotated[Moment | None, Meta(description="first SYN; or the SYN-ACK if only_from is server")]
    synack_ns: Annotated[Span | None, Meta(description="from the first SYN to the first SYN-ACK, nanoseconds")]
    duration_ns: Annotated[Span | None, Meta(description="from start_ns to end_ns, nanoseconds")]
    second_fin_ns: Annotated[Span | None, Meta(description="from start_ns to the other side's first FIN, nanoseconds")]
    end_ns: Annotated[Moment | None, Meta(description="first FIN or RST")]
    over_ns: Annotated[Moment | None, Meta(description="the segment or timeout with which the connection was over")]
    ended: Annotated[str, Meta(pattern="^(open|fin|rst|refused|timeout|replaced)$")]
    closed_first: Annotated[Side | None, Meta(description="the side of the first FIN or RST")]
    syn_retransmissions: Count | None
    fin_retransmissions: Count


SCHEMAS = {"duration": Lifetime}
