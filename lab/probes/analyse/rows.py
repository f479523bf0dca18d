"""The rows that `lab analyse --json` prints."""

from typing import Annotated

from msgspec import Meta

from lab.live.row_types import Head, OfSocket, OfThread, Sequence, SocketAddress, Span


class Step(Head, OfSocket, OfThread):
    """A step of the kernel for a socket. null: unknown, or the step has no such field."""

    role: Annotated[str | None, Meta(description="`client`: the socket called connect(); `service`: a listener or its")]
    skaddr: SocketAddress
    mptcp: Annotated[SocketAddress | None, Meta(description="the MPTCP socket that the socket is, or is a subflow of")]
    ip: Annotated[int, Meta(description="4 or 6")]
    func: Annotated[str, Meta(description="system call, kernel function, tracepoint or hook that was observed")]
    step: str
    returns: Annotated[bool | None, Meta(description="whether the call returns; null: no system call")]
    takes: Annotated[str | None, Meta(description="what a call that received has taken: data, nothing, errors")]
    observed_call: Annotated[bool | None, Meta(description="false: by a call that is not observed, such as io_uring")]
    result: Annotated[int | None, Meta(description="return value: bytes, or a negative errno")]
    latency_ns: Annotated[Span | None, Meta(description="from the entry of the call")]
    seq: Sequence | None
    length: Annotated[int | None, Meta(description="bytes of data of the segment")]
    flags: Annotated[str | None, Meta(description="flags of the segment")]
    oldstate: str | None
    state: Annotated[str | None, Meta(description="state after the step")]
    connect_time_ns: Annotated[Span | None, Meta(description="duration of the opening")]


SCHEMAS = {"analyse": Step}
